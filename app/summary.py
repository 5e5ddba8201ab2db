"""One HTML page about a segmented case, to read, mail or print."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np

from app import canvas_layers, memory, readings, render
from app.jobs import Result
from app.scene import Scene
from brats_tfrecord import __version__, spec
from brats_tfrecord.cohort.nifti import RawCase
from brats_tfrecord.report.slices import grey_window

if TYPE_CHECKING:  # imports TensorFlow, which takes seconds
    from brats_tfrecord.serving.card import ModelCard

_PREFERRED = ("flair", "t1ce")
"""Modalities to draw; without them, the first one of the case."""

_PIXELS = 320


def page_of(scene: Scene, result: Result, card: ModelCard) -> str:
    """Renders the page: self-contained HTML without scripts, with all names escaped.

    Args:
        scene: the case.
        result: its segmentation.
        card: card of the model.
    """
    with memory.READING.reader() as reserve:
        reserve(scene.unpacked_bytes)
        return _page_of(scene, scene.unpacked().raw, result, card)


def _page_of(scene, raw, result, card):
    modalities = [name for name in _PREFERRED if name in raw.modalities] or raw.modalities[:1]
    return _template().render(
        case_id=raw.case_id,
        now=datetime.now().astimezone(),
        card=card,
        version=__version__,
        use=readings.use_of(scene, card),
        pictures=_pictures(raw, result, modalities),
        legend=_legend(card.scheme),
        volumes=readings.table(*readings.volume_rows(scene, result)),
        extents=result.extents,
        rano_diameters=readings.rano_diameters,
        rano_sum=readings.rano_sum(result.extents),
        rano_rule=readings.RANO_RULE,
        regions=tuple(spec.REGIONS),
        scored=result.metrics is not None,
        warnings=readings.warnings_of(scene, result),
        notes=scene.notes,
        truth_read_as=readings.meaning_of(scene.label_scheme) if scene.truth_ml else None,
        changes=result.changes,
        spacing=raw.geometry.spacing_mm,
        shape=raw.geometry.lps_shape,
        seconds=sum(result.seconds.values()),
    )


def _pictures(raw, result, modalities):
    """[(title, `data:` URLs of the three planes)] through the largest tumour or the centre."""
    classes = canvas_layers.array_of(result.layers[0], raw.geometry)
    field = render.field_of_view(raw.volumes, raw.geometry.spacing_mm)
    position = (
        result.extents[0].centre
        if result.extents
        else render.middle_of(field, raw.volumes.shape[:3])
    )
    return [
        (canvas_layers.MODALITY_TITLES[name], _planes(raw, name, position, field, classes))
        for name in modalities
    ]


def _planes(
    raw: RawCase,
    modality: str,
    position: tuple[int, int, int],
    field: render.FieldOfView,
    classes: np.ndarray,
) -> list[str]:
    volume = raw.volumes[..., raw.modalities.index(modality)]
    return render.plane_urls(
        volume,
        position,
        window=grey_window(volume[volume != 0]),
        field=field,
        classes=classes,
        shown=range(1, len(spec.CLASS_NAMES)),
        opacity=0.45,
        size=_PIXELS,
    )


def _legend(scheme):
    """[(colour, name, title, value in files)] of the classes of a label scheme."""
    return [
        (
            spec.CLASS_COLOURS[class_id],
            spec.CLASS_NAMES[class_id],
            spec.CLASS_TITLES[class_id],
            scheme.values[class_id],
        )
        for class_id in range(1, scheme.classes)
    ]


def _template():
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    ).get_template("summary.html")
