"""Thick slices: evaluations of files and of records give the same metrics."""

import json

import nibabel
import numpy as np
import pytest
import stand_in
from tiny_cohorts import write_tiny_case

from brats_tfrecord import spec
from brats_tfrecord.evaluation.evaluate_options import EvaluateOptions
from brats_tfrecord.pieces import Piece
from brats_tfrecord.records import manifest
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.training.network.unet import build_unet
from brats_tfrecord.workflow import evaluate_and_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two cases with slices of 3 mm, and one with 1 mm voxels that needs no resampling."""
    root = tmp_path_factory.mktemp("cohort")
    for index in (1, 2, 3):
        folder = write_tiny_case(root, index)
        if index < 3:
            for path in folder.iterdir():
                image = nibabel.load(path)
                affine = image.affine @ np.diag([1, 1, 3, 1])
                nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), path)
    return root


def test_files_and_records_give_the_same_metrics(run_tool, cohort, tmp_path):
    run_tool(
        "convert_to_tfrecord.py",
        f"--input_dir={cohort}",
        f"--output_dir={tmp_path}/data",
        "--folds=3",
        "--jobs=1",
        "--bias_correction=none",
        "--crop_window=0:20,0:16,0:40",
        "--resample=1mm",
    )
    dataset = manifest.load(tmp_path / "data")
    network = build_unet((None, None, None, 2), 4, (4, 8), (0,) * 3, seed=4)
    model = tmp_path / "saved_model"
    card = stand_in.model_card(dataset.recipe, ("flair", "t2"), piece=Piece((8, 8, 8), 2, 10**6))
    export_saved_model(network, card, model)
    rows_of = {}
    for name, source in (
        ("files", {"input_dir": str(cohort), "write_segmentations": True, "pictures": 0}),
        ("records", {"data_dir": f"{tmp_path}/data", "fold": "all"}),
    ):
        evaluate_and_report(
            EvaluateOptions(model=str(model), output_dir=str(tmp_path / name), **source)
        )
        rows = json.loads((tmp_path / name / "metrics.json").read_text())["rows"]
        rows_of[name] = {row["case_id"]: row for row in rows}
    assert len(rows_of["records"]) == 3
    for case_id, row in rows_of["records"].items():
        expected = rows_of["files"][case_id]
        assert row["crop"] == expected["crop"] and row["truth_ml"] == expected["truth_ml"]
        assert row["volumes_ml"] == pytest.approx(expected["volumes_ml"], abs=1e-3)
        assert sum(row["volumes_ml"].values()) > 0, "empty predictions would agree trivially"
        for region in spec.REGIONS:
            assert row["metrics"][region] == pytest.approx(expected["metrics"][region], abs=1e-6)
    for case_id, slices_mm in (("BraTS20_Training_001", 3), ("BraTS20_Training_003", 1)):
        path = tmp_path / "files" / "segmentations" / f"{case_id}.nii.gz"
        written = nibabel.load(path)
        assert written.shape == (24, 20, 16) and written.header.get_zooms()[2] == slices_mm
