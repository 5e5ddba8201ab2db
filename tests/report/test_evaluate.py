"""The evaluation by its real command line, from files and from records."""

import csv
import json
import shutil

import nibabel
import numpy as np
import pytest

from brats_tfrecord import metrics, spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.preprocess import masks


@pytest.fixture(scope="module")
def from_files(run_tool, tiny_model, small_cohort, tmp_path_factory):
    """Folder of an evaluation of the whole cohort, the unlabelled case included."""
    root = tmp_path_factory.mktemp("from_files")
    done = run_tool("evaluate.py", f"--model={tiny_model}", f"--input_dir={small_cohort}",
                    f"--output_dir={root}", "--write_segmentations", "--threshold_baselines")
    assert "select cases, brats2020 rules" in done.stdout
    assert "no case is unseen" in done.stdout and "best single flair threshold" in done.stdout
    return root


def rows_of(root):
    return {row["case_id"]: row for row in json.loads((root / "metrics.json").read_text())["rows"]}


def test_every_case_has_its_row(from_files):
    rows = rows_of(from_files)
    assert {case_id: row["status"] for case_id, row in rows.items()} == {
        **{f"BraTS20_Training_00{n}": "ok" for n in range(1, 5)},
        "BraTS20_Validation_001": "unlabelled"}
    assert sorted(row["use"] for row in rows.values()) == [
        "select", "select", "train", "train", "unseen"]
    with open(from_files / "metrics.csv") as stream:
        table = {row["case_id"]: row for row in csv.DictReader(stream)}
    first = "BraTS20_Training_001"
    assert float(table[first]["WT_dice"]) == rows[first]["metrics"]["WT"]["dice"]
    assert table["BraTS20_Validation_001"]["WT_dice"] == ""


def test_figures_are_those_of_the_written_segmentations(from_files, small_cohort):
    for case in layouts.find_cases(small_cohort):
        path = from_files / "segmentations" / f"{case.case_id}.nii.gz"
        written = nibabel.load(path)
        np.testing.assert_array_equal(written.affine, nibabel.load(case.image("t1")).affine)
        if case.mask is None:
            continue
        scheme = spec.LABEL_SCHEMES["brats2020"]
        truth = masks.to_classes(nifti.read_case(case).mask, scheme, "")
        found = masks.to_classes(nifti.read_volume(path)[0].astype(int), scheme, "")
        expected = metrics.case_metrics(truth, found, (1, 1, 1))
        for region, figures in rows_of(from_files)[case.case_id]["metrics"].items():
            assert figures == pytest.approx(expected[region])


def test_records_give_the_same_figures(run_tool, from_files, tiny_model, small_dataset, tmp_path):
    run_tool("evaluate.py", f"--model={tiny_model}", f"--data_dir={small_dataset}", "--fold=all",
             f"--output_dir={tmp_path}", "--pictures=0")
    found, expected = rows_of(tmp_path), rows_of(from_files)
    assert len(found) == 4
    for case_id, row in found.items():
        for region in spec.REGIONS:
            assert row["metrics"][region] == pytest.approx(
                expected[case_id]["metrics"][region], abs=1e-6)


def test_the_report_needs_nothing_else(from_files):
    text = (from_files / "report.html").read_text()
    assert "data:image/png;base64," in text and "BraTS20_Training_001" in text
    assert "http://" not in text and "https://" not in text and "src=\"/" not in text


def test_a_broken_case_is_named_and_the_others_are_done(run_tool, tiny_model, small_cohort,
                                                        tmp_path):
    for name in ("BraTS20_Training_001", "BraTS20_Training_002", "BraTS20_Training_003"):
        shutil.copytree(small_cohort / name, tmp_path / "in" / name)
    t2 = tmp_path / "in" / "BraTS20_Training_003" / "BraTS20_Training_003_t2.nii.gz"
    colours = np.zeros(nibabel.load(t2).shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, nibabel.load(t2).affine), t2)
    flair = tmp_path / "in" / "BraTS20_Training_002" / "BraTS20_Training_002_flair.nii.gz"
    flair.write_bytes(flair.read_bytes()[:999])
    done = run_tool("evaluate.py", f"--model={tiny_model}", f"--input_dir={tmp_path / 'in'}",
                    f"--output_dir={tmp_path / 'out'}", expect=1)
    assert "failed: " in done.stdout and "BraTS20_Training_002_flair.nii.gz" in done.stdout
    rows = rows_of(tmp_path / "out")
    assert rows["BraTS20_Training_001"]["status"] == "ok"
    assert rows["BraTS20_Training_002"]["status"] == "failed"
    assert "BraTS20_Training_003_t2.nii.gz" in rows["BraTS20_Training_003"]["reason"]


@pytest.mark.parametrize("flags, message", [
    ([], "--data_dir, --input_dir: expected exactly one"),
    (["--input_dir={cohort}", "--fold=0"], "--fold=0: goes with --data_dir"),
    (["--data_dir={cohort}"], "no dataset there"),
    (["--data_dir={dataset}", "--threshold_baselines"], "goes with --input_dir"),
    (["--input_dir={cohort}", "--output_dir=/dev/null/x"], "cannot be written to"),
    (["--data_dir={dataset}", "--fold=7"], "--fold=7: no case of"),
    (["--data_dir={dataset}", "--fold=x"], "--fold=x: expected a number"),
    (["--input_dir={cohort}", "--model={cohort}"], "no SavedModel there"),
])
def test_bad_flags_write_nothing(run_tool, tiny_model, small_cohort, small_dataset, tmp_path,
                                 flags, message):
    flags = [flag.format(cohort=small_cohort, dataset=small_dataset) for flag in flags]
    done = run_tool("evaluate.py", f"--model={tiny_model}", f"--output_dir={tmp_path / 'out'}",
                    *flags, expect=2)
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
