"""Tables of a case: volumes, agreement with the truth, connected tumours."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import streamlit as st

from app.jobs import RULES, Result
from app.scene import Scene
from brats_tfrecord import metrics, spec
from brats_tfrecord.evaluation import rule_choice
from brats_tfrecord.metrics import rano
from brats_tfrecord.metrics.extent import Extent
from brats_tfrecord.serving import recognition
from brats_tfrecord.spec import members
from brats_tfrecord.wording import plural

if TYPE_CHECKING:  # imports TensorFlow, which takes seconds
    from brats_tfrecord.serving.card import ModelCard

_RECOGNISED = {
    recognition.BY_ID: "A case of this name",
    recognition.BY_SCAN: "This scan, under another name,",
    recognition.BY_PATIENT: "Another scan of this patient",
}


def use_of(scene: Scene, card: ModelCard) -> str:
    """Returns a sentence on how the model used a case: a Dice on a training case proves little."""
    known = card.recognise(scene.case_id, scene.patient_id, scene.voxels)
    if known.by is not None:
        return f"{_RECOGNISED[known.by]} was used to {known.use} this model."
    if card.recognises_by_id_only:
        return (
            "No case of this name was used to train or select this model. "
            f"But {recognition.ID_ONLY}."
        )
    return "Neither this scan nor its patient was used to train or select this model."


RANO_RULE = (
    "Longest diameter and the longest one perpendicular to it of each enhancing lesion, in the "
    "axial slice where their product is largest (Wen et al. 2010). Both run inside the enhancing "
    "tumour, not across necrosis, cavity or gaps. Measurable from 10 × 10 mm on."
)
"""How `Extent.lesions` are measured, for the reader of a table."""


def warnings_of(scene: Scene, result: Result | None) -> tuple[str, ...]:
    """Returns the warnings about a case and about its segmentation, each once."""
    return tuple(dict.fromkeys((*scene.warnings, *(result.warnings if result else ()))))


def show_volumes(scene: Scene, result: Result | None) -> None:
    """Shows the volume of every structure, and Dice and HD95 if there are truth and prediction."""
    st.html(table(*volume_rows(scene, result)))
    if scene.truth_ml:
        st.caption(f"Truth read as {meaning_of(scene.label_scheme)}")
    if result is not None and result.metrics:
        st.caption(scoring_of(scene.case_id))


def volume_rows(
    scene: Scene, result: Result | None
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Builds the table of volumes.

    Args:
        scene: the case.
        result: its segmentation, or None; then the case needs a truth.

    Returns:
        (head, rows) with cells in HTML.
    """
    columns = {
        title: volumes
        for title, volumes in (
            ("Pred. mL", result and result.volumes_ml),
            ("Truth mL", scene.truth_ml),
        )
        if volumes
    }
    figures = (result.metrics if result else None) or {}
    scores = {"dice": "Dice", "hd95": "HD95 mm"} if figures else {}
    rows = [
        (
            titled(name),
            *(_decimal(volumes.get(name), 1) for volumes in columns.values()),
            *(
                _decimal(figures.get(name, {}).get(metric), metrics.METRIC_DECIMALS[metric])
                for metric in scores
            ),
        )
        for name in max(columns.values(), key=len)
    ]
    return ("", *columns, *scores.values()), rows


def meaning_of(label_scheme: str) -> str:
    """Describes a label scheme: "msd (2 NCR/NET, 1 ED, 3 ET)"."""
    scheme = spec.LABEL_SCHEMES[label_scheme]
    values = list(zip(scheme.values, scheme.class_names))[1:]
    return f"{label_scheme} ({', '.join(f'{value} {name}' for value, name in values)})"


def scoring_of(case_id: str) -> str:
    """Says by which rules Dice and HD95 are computed, and if they are those of another tumour."""
    _, note = rule_choice.choose(RULES, [case_id])
    rules = "Dice and HD95 by the rules of BraTS 2020"
    return rules if note is None else f"{rules}: {note.split(';')[0]}"


def choose_lesion(key: str, extents: Sequence[Extent]) -> int | None:
    """Shows the table of connected tumours; returns the index of the selected row, or None."""
    rows = [
        {
            "": number,
            **{f"{region} mL": round(part.volumes_ml[region], 2) for region in spec.REGIONS},
            "Extent mm": round(part.extent_mm, 1),
            "Axial extent mm": "{:.1f} × {:.1f}".format(*part.axial_extent_mm),
            "RANO mm": rano_diameters(part),
        }
        for number, part in enumerate(extents, 1)
    ]
    event = st.dataframe(
        rows,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key=f"lesions_{key}",
        height=min(38 + 35 * len(rows), 180),
        column_config={
            "": st.column_config.NumberColumn(width=30),
            "RANO mm": st.column_config.TextColumn(help=RANO_RULE),
        },
    )
    st.caption(rano_sum(extents))
    selected = event["selection"]["rows"]
    return selected[0] if selected and selected[0] < len(rows) else None


def rano_diameters(part: Extent) -> str:
    """Formats the diameters of the measurable enhancing lesions of a connected tumour."""
    if not part.lesions:
        return "–"
    measurable = [
        "{:.1f} × {:.1f}".format(*lesion.diameters_mm)
        for lesion in part.lesions
        if lesion.measurable
    ]
    return ", ".join(measurable) or "not measurable"


def rano_sum(extents: Sequence[Extent]) -> str:
    """Writes the number of enhancing lesions and the sum of their products as a sentence."""
    burden = rano.burden([lesion for part in extents for lesion in part.lesions])
    if not burden.lesions:
        return "RANO: no enhancing lesion above 50 mm³."
    text = f"RANO: {plural(burden.lesions, 'enhancing lesion')}, "
    if not burden.measurable:
        return f"{text}none measurable."
    largest = f" of the {rano.MAX_TARGETS} largest" if burden.measurable > rano.MAX_TARGETS else ""
    return (
        f"{text}{burden.measurable} measurable; sum of the products{largest} "
        f"{burden.sum_mm2:.0f} mm²."
    )


def titled(structure: str) -> str:
    """Formats a structure as a table cell: colour of a class, name, and title as a tooltip."""
    classes = members(structure)
    colour = spec.CLASS_COLOURS[classes[0]] if len(classes) == 1 else None
    title = spec.REGION_TITLES.get(structure) or spec.CLASS_TITLES[classes[0]]
    swatch = f'<span class="swatch" style="background:{colour}"></span>' if colour else ""
    return f'<span title="{html.escape(title)}">{swatch}{html.escape(structure)}</span>'


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Formats an HTML table; the cells are HTML already."""
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="numbers"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'


def _decimal(value, decimals):
    return "–" if value is None else f"{value:.{decimals}f}"
