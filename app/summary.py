"""One page about a segmented case: to read, to mail, to print."""

from datetime import datetime
from pathlib import Path

import jinja2

from app import canvas_layers, readings, render
from brats_tfrecord import __version__, spec

_SHOWN = ("flair", "t1ce")
_PIXELS = 320


def page_of(scene, result, segmenter):
    """The page as a str of HTML: self-contained, without scripts, every name escaped.

    Args:
        scene: `scene.Scene`.
        result: `jobs.Result` of its case.
        segmenter: the `Segmenter` that made it.
    """
    raw, scheme = scene.unpacked().raw, segmenter.scheme
    classes = canvas_layers.array_of(result.layers[0], raw.geometry)
    field = render.field_of_view(raw.volumes, raw.geometry.spacing_mm)
    position = (
        result.extents[0].centre
        if result.extents
        else render.middle_of(field, raw.volumes.shape[:3])
    )
    head, rows = readings.volume_rows(scene, result)
    return _template().render(
        case_id=raw.case_id,
        now=datetime.now().astimezone(),
        card=segmenter.card,
        version=__version__,
        use=segmenter.card.use_of(raw.case_id),
        pictures=[
            (canvas_layers.MODALITY_TITLES[name], _planes(raw, name, position, field, classes))
            for name in _SHOWN
            if name in raw.modalities
        ]
        or [
            (
                canvas_layers.MODALITY_TITLES[raw.modalities[0]],
                _planes(raw, raw.modalities[0], position, field, classes),
            )
        ],
        legend=[
            (
                spec.CLASS_COLOURS[class_id],
                spec.CLASS_NAMES[class_id],
                spec.CLASS_TITLES[class_id],
                scheme.values[class_id],
            )
            for class_id in range(1, scheme.classes)
        ],
        volumes=readings.table(head, rows),
        extents=result.extents,
        regions=tuple(spec.REGIONS),
        scored=result.metrics is not None,
        warnings=scene.warnings,
        changes=result.changes,
        spacing=raw.geometry.spacing_mm,
        shape=raw.geometry.lps_shape,
        seconds=sum(result.seconds.values()),
    )


def _planes(raw, modality, position, field, classes):
    """The three planes through `position` as `data:` URLs."""
    volume = raw.volumes[..., raw.modalities.index(modality)]
    window = render.window_of(volume)
    return [
        render.png_data_url(
            render.render_plane(
                volume,
                plane,
                position,
                window=window,
                field=field,
                classes=classes,
                shown=range(1, len(spec.CLASS_NAMES)),
                opacity=0.45,
                size=_PIXELS,
            )
        )
        for plane in render.PLANES
    ]


def _template():
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    ).get_template("summary.html")
