"""Download buttons of a segmented case: label map, CSV of the figures, one-page summary."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import streamlit as st

from app import summary
from app.jobs import Result
from app.scene import Scene
from brats_tfrecord import files
from brats_tfrecord.wording import csv_cell

if TYPE_CHECKING:  # imports TensorFlow, which takes seconds
    from brats_tfrecord.serving.card import ModelCard


def show_downloads(scene: Scene, result: Result, card: ModelCard) -> None:
    """Shows the three download buttons."""
    name = files.safe_file_name(scene.case_id)
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
        lambda: summary.page_of(scene, result, card),
        f"{name}.html",
        "text/html",
        key="summary",
        on_click="ignore",
        width="stretch",
        help="One page to read or print",
    )


def csv_of(scene: Scene, result: Result) -> str:
    """Writes the volumes and all figures as CSV, one row per structure."""
    figures = result.metrics or {}
    columns = list(next(iter(figures.values()), ()))
    truth_ml = scene.truth_ml or {}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case_id", "structure", "predicted_ml", "truth_ml", *columns])
    for name, volume in result.volumes_ml.items():
        writer.writerow(
            [
                csv_cell(scene.case_id),
                name,
                f"{volume:.3f}",
                f"{truth_ml[name]:.3f}" if name in truth_ml else "",
                *(figures.get(name, {}).get(column, "") for column in columns),
            ]
        )
    return stream.getvalue()
