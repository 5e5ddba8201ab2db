"""The files of a segmented case: NIfTI label map, CSV of figures, one-page summary."""

import csv
import io
import re

import streamlit as st

from app import summary


def show_downloads(scene, result, segmenter):
    """The segmentation, the numbers and the one-page summary as files."""
    name = harmless(scene.case_id)
    segmentation, numbers, page = st.columns(3)
    segmentation.download_button(
        "NIfTI",
        result.nifti,
        f"{name}_prediction.nii.gz",
        "application/gzip",
        key="download",
        on_click="ignore",
        width="stretch",
        help="The segmentation in the case's own geometry and label values",
    )
    numbers.download_button(
        "CSV",
        csv_of(scene, result),
        f"{name}.csv",
        "text/csv",
        key="csv",
        on_click="ignore",
        width="stretch",
        help="The numbers of this page",
    )
    page.download_button(
        "Summary",
        lambda: summary.page_of(scene, result, segmenter),
        f"{name}.html",
        "text/html",
        key="summary",
        on_click="ignore",
        width="stretch",
        help="One page to read or print",
    )


def csv_of(scene, result):
    """A row a structure: volumes, and every figure there is; str."""
    figures = result.metrics or {}
    columns = list(next(iter(figures.values()), ()))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case_id", "structure", "predicted_ml", "truth_ml", *columns])
    truth_ml = scene.truth_ml or {}
    for name, volume in result.volumes_ml.items():
        writer.writerow(
            [
                harmless(scene.case_id),
                name,
                f"{volume:.3f}",
                f"{truth_ml[name]:.3f}" if name in truth_ml else "",
                *(figures.get(name, {}).get(column, "") for column in columns),
            ]
        )
    return stream.getvalue()


def harmless(case_id):
    """`case_id` as the beginning of a file's name, or as a cell that no table program runs."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", case_id).lstrip(".-") or "case"
