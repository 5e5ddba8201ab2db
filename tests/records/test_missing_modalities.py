"""Cohorts whose cases lack modalities, converted with and without --allow_missing."""

import json
import shutil

import numpy as np
import pytest
from tiny_cohorts import listing, write_tiny_case

from brats_tfrecord import files, spec
from brats_tfrecord.cohort import layouts
from brats_tfrecord.errors import InputError
from brats_tfrecord.records import convert, example, inspection, manifest, tfrecord, verify
from brats_tfrecord.records.convert_options import ConvertOptions
from brats_tfrecord.records.pool import Workers

CASE = "BraTS20_Training_{:03d}".format


def chosen(cohort, out, **more):
    settings = {"folds": 1, "cases_per_shard": 1, "crop": "brain", "crop_window": "0:16,0:16,0:12"}
    return ConvertOptions(
        str(cohort), str(out), **{**settings, "bias_correction": "none", "jobs": 1, **more}
    )


def remove(cohort, index, *modalities):
    for name in modalities:
        (cohort / CASE(index) / f"{CASE(index)}_{name}.nii.gz").unlink()


def rows_of(out):
    return {row.case_id: row for row in manifest.load(out).cases}


def stored(out, case_id):
    row = rows_of(out)[case_id]
    payload = tfrecord.read_payload(out / row.shard, row.record_offset, row.record_bytes)
    return example.decode(payload, "float16")


@pytest.fixture
def cohort(tmp_path):
    """Three cases: a complete one, one without t2, one with only flair and t1ce."""
    root = tmp_path / "cohort"
    for index in (1, 2, 3):
        write_tiny_case(root, index)
    remove(root, 2, "t2")
    remove(root, 3, "t1", "t2")
    return root


def test_cases_that_lack_modalities_are_converted_with_channels_of_zeros(cohort, tmp_path, capsys):
    summary = convert.convert(chosen(cohort, tmp_path / "out", allow_missing=True))
    assert summary.cases == 3 and not summary.failures
    assert summary.missing == {"t1": 1, "t2": 2}
    assert "Missing, stored as zeros: t1 in 1 case, t2 in 2 cases" in capsys.readouterr().out
    rows = rows_of(tmp_path / "out")
    assert [rows[CASE(index)].missing for index in (1, 2, 3)] == [(), ("t2",), ("t1", "t2")]
    assert rows[CASE(3)].warnings == ("no t1, t2 image: stored as zeros and marked as missing",)
    assert set(rows[CASE(3)].inputs) == {"t1ce", "flair", "seg"}
    assert set(rows[CASE(3)].voxels) == {"t1ce", "flair"}
    record = stored(tmp_path / "out", CASE(3))
    assert record.missing == ("t1", "t2") and record.modalities == spec.MODALITIES
    filled = record.image.any(axis=(0, 1, 2))
    assert dict(zip(spec.MODALITIES, filled)) == {"t1": 0, "t1ce": 1, "t2": 0, "flair": 1}
    assert set(np.unique(record.classes)) == {0, 1, 2, 3}


def test_complete_cases_have_the_same_bytes_and_key_with_and_without_the_flag(tmp_path):
    cohort = tmp_path / "cohort"
    for index in (1, 2):
        write_tiny_case(cohort, index)
    convert.convert(chosen(cohort, tmp_path / "without"))
    convert.convert(chosen(cohort, tmp_path / "with", allow_missing=True))
    without, given = listing(tmp_path / "without"), listing(tmp_path / "with")
    without.pop("dataset.json"), given.pop("dataset.json")
    assert without == given  # shards and sidecars, with their keys
    text = (tmp_path / "without" / "dataset.json").read_text()
    assert "missing" not in text
    value = json.loads((tmp_path / "with" / "dataset.json").read_text())
    assert value.pop("how_to_read")["allow_missing"] is True
    assert value == {key: json.loads(text)[key] for key in value}


def test_without_the_flag_the_refusal_names_it(cohort, tmp_path):
    summary = convert.convert(chosen(cohort, tmp_path / "out"))
    reasons = {failure.case_id: failure.reason for failure in summary.failures}
    assert "no t2 image" in reasons[CASE(2)] and "no t1 image" in reasons[CASE(3)]
    assert all("--allow_missing" in reason for reason in reasons.values())


def test_the_flag_converts_what_was_refused_and_keeps_the_rest(cohort, tmp_path, capsys):
    out = tmp_path / "out"
    convert.convert(chosen(cohort, out))
    kept = files.sha256(out / rows_of(out)[CASE(1)].shard)
    assert convert.convert(chosen(cohort, out, allow_missing=True)).cases == 3
    assert "Kept from an earlier run: 1 cases" in capsys.readouterr().out
    assert files.sha256(out / rows_of(out)[CASE(1)].shard) == kept
    with pytest.raises(InputError, match="allow_missing is True, now False"):
        convert.convert(chosen(cohort, out))


def test_a_file_that_is_added_later_is_converted(cohort, tmp_path, capsys):
    out, whole = tmp_path / "out", tmp_path / "whole"
    convert.convert(chosen(cohort, out, allow_missing=True))
    write_tiny_case(whole, 2)
    shutil.copytree(whole / CASE(2), cohort / CASE(2), dirs_exist_ok=True)
    capsys.readouterr()
    convert.convert(chosen(cohort, out, allow_missing=True))
    assert f"Converted again, because their files or their shards have changed: {CASE(2)}" in (
        capsys.readouterr().out
    )
    assert rows_of(out)[CASE(2)].missing == ()
    assert stored(out, CASE(2)).image.any(axis=(0, 1, 2)).all()


def test_processed_files_are_written_of_the_modalities_that_are_there(cohort, tmp_path, capsys):
    options = chosen(cohort, tmp_path / "out", allow_missing=True, write_nifti=True)
    convert.convert(options)
    names = {path.name for path in (tmp_path / "out" / "processed_images" / CASE(3)).iterdir()}
    assert names == {f"{CASE(3)}_{name}.nii.gz" for name in ("t1ce", "flair")}
    convert.convert(options)
    assert "Kept from an earlier run: 3 cases" in capsys.readouterr().out


def test_verify_accepts_them_and_finds_what_does_not_fit(cohort, tmp_path):
    out = tmp_path / "out"
    convert.convert(chosen(cohort, out, allow_missing=True))
    assert verify.verify(out, cohort, 3, Workers(1)) == []
    for path in (out / "dataset.json", (out / rows_of(out)[CASE(2)].shard).with_suffix(".json")):
        value = json.loads(path.read_text())
        for row in value["cases"]:
            if row["case_id"] == CASE(2):
                del row["missing"]
        files.write_json(path, value)
    texts = [str(problem) for problem in verify.verify(out, workers=Workers(1))]
    assert any("missing is [], its inputs lack ['t2']" in text for text in texts)
    assert any("missing is None, its record holds ['t2']" in text for text in texts)


def test_inspect_lists_what_is_missing(cohort, capsys):
    options = ConvertOptions(str(cohort), inspect=True, allow_missing=True, jobs=1)
    assert inspection.inspect(options) == 0
    text = capsys.readouterr().out
    assert f"1 case ({CASE(3)}): no t1, t2 image: stored as zeros and marked as missing" in text
    assert "one value everywhere" not in text
    assert inspection.inspect(ConvertOptions(str(cohort), inspect=True, jobs=1)) == 2
    assert "--allow_missing" in capsys.readouterr().out


def test_a_cohort_in_which_every_case_lacks_modalities_is_converted(tmp_path, capsys):
    cohort = tmp_path / "cohort"
    for index in (1, 2):
        write_tiny_case(cohort, index)
        remove(cohort, index, "t1", "t2")
    with pytest.raises(InputError, match="none of its 2 cases can be used.*--allow_missing"):
        convert.convert(chosen(cohort, tmp_path / "out"))
    summary = convert.convert(chosen(cohort, tmp_path / "out", allow_missing=True))
    assert summary.cases == 2 and summary.missing == {"t1": 2, "t2": 2}
    assert "2 cases" in capsys.readouterr().out
    assert [case.missing for case in layouts.find_cases(cohort)] == [("t1", "t2")] * 2


@pytest.mark.slow
def test_a_real_case_without_t1_and_t2_has_the_other_channels_of_the_complete_one(
    real_cases, tmp_path
):
    name = "BraTS20_Training_904"
    for cohort, kinds in (
        ("complete", (*spec.MODALITIES, "seg")),
        ("two", ("flair", "t1ce", "seg")),
    ):
        (tmp_path / cohort / name).mkdir(parents=True)
        for kind in kinds:
            file = f"{name}_{kind}.nii.gz"
            (tmp_path / cohort / name / file).symlink_to(real_cases / name / file)
        options = {"folds": 1, "jobs": 1, "allow_missing": True}
        convert.convert(
            ConvertOptions(str(tmp_path / cohort), str(tmp_path / f"{cohort}_out"), **options)
        )
    complete, two = (stored(tmp_path / f"{cohort}_out", name) for cohort in ("complete", "two"))
    assert two.missing == ("t1", "t2") and complete.missing == ()
    np.testing.assert_array_equal(two.image[..., [1, 3]], complete.image[..., [1, 3]])
    assert not two.image[..., [0, 2]].any()
    np.testing.assert_array_equal(two.native_classes(), complete.native_classes())
