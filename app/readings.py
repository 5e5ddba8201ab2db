"""The numbers of a case: volumes, agreement with the truth, connected tumours."""

import html

import streamlit as st

from brats_tfrecord import metrics, spec
from brats_tfrecord.metrics.structures import members

# A Dice on a case that the model has learnt from proves nothing.
USES = {
    "train": "A case of this name was used to **train** this model.",
    "select": "A case of this name was used to **select** this model.",
    "unseen": "No case of this name was used to train or select this model.",
}


def show_volumes(scene, result):
    """Millilitres of every structure; Dice and HD95 where there are truth and prediction."""
    st.html(table(*volume_rows(scene, result)))


def volume_rows(scene, result):
    """(head, rows) of the table of volumes; cells are HTML."""
    measured = {"Pred. mL": result and result.volumes_ml, "Truth mL": scene.truth_ml}
    measured = {title: volumes for title, volumes in measured.items() if volumes}
    figures = result.metrics if result else None
    names = max(measured.values(), key=len)
    shown = ("dice", "hd95") if figures else ()
    heads = ("", *measured, *("Dice", "HD95 mm")[: len(shown)])
    rows = [
        (
            titled(name),
            *(_decimal(volumes.get(name), 1) for volumes in measured.values()),
            *(
                _decimal(figures.get(name, {}).get(metric), metrics.METRIC_DECIMALS[metric])
                for metric in shown
            ),
        )
        for name in names
    ]
    return heads, rows


def choose_lesion(key, extents):
    """The table of connected tumours; returns the index of the row that was clicked, or None."""
    rows = [
        {
            "": number,
            **{f"{region} mL": round(part.volumes_ml[region], 2) for region in spec.REGIONS},
            "Longest mm": round(part.diameter_mm, 1),
            "Axial mm": "{:.1f} x {:.1f}".format(*part.axial_mm),
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
        column_config={"": st.column_config.NumberColumn(width=30)},
    )
    chosen = event.selection.rows
    return chosen[0] if chosen and chosen[0] < len(rows) else None


def titled(structure):
    """A table cell: the swatch of a class, the structure's name, what it stands for as a hint."""
    classes = members(structure)
    colour = spec.CLASS_COLOURS[classes[0]] if len(classes) == 1 else None
    title = spec.REGION_TITLES.get(structure) or spec.CLASS_TITLES[classes[0]]
    swatch = f'<span class="swatch" style="background:{colour}"></span>' if colour else ""
    return f'<span title="{html.escape(title)}">{swatch}{html.escape(structure)}</span>'


def table(head, rows):
    """An HTML table of cells that are HTML already."""
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="numbers"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'


def _decimal(value, decimals):
    return "–" if value is None else f"{value:.{decimals}f}"
