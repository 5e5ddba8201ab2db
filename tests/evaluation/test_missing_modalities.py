"""Evaluations of cases that lack modalities, by themselves or by --drop_modalities."""

import json
import shutil

import pytest
import stand_in

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.errors import InputError
from brats_tfrecord.evaluation.evaluate_options import EvaluateOptions
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import convert
from brats_tfrecord.records.convert_options import ConvertOptions
from brats_tfrecord.serving.missing_modalities import MissingModalities
from brats_tfrecord.workflow import evaluate_and_report

pytestmark = pytest.mark.slow
ID = "BraTS20_Training_{:03d}".format
WINDOW = {"bias_correction": "none", "crop": "brain", "crop_window": "0:96,0:92,0:72"}
RECIPE = Recipe(
    bias_correction="none", crop="brain", crop_origin=(0, 0, 0), crop_shape=(96, 92, 72)
)


@pytest.fixture(scope="module")
def cohort(small_cohort, tmp_path_factory):
    """Two phantoms; the second lacks T1ce."""
    root = tmp_path_factory.mktemp("cohort")
    for case in layouts.find_cases(small_cohort)[:2]:
        shutil.copytree(case.image("t1").parent, root / case.case_id)
    (root / ID(2) / f"{ID(2)}_t1ce.nii.gz").unlink()
    return root


@pytest.fixture(scope="module")
def dataset(cohort, tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    options = ConvertOptions(str(cohort), str(root), allow_missing=True, folds=1, jobs=1, **WINDOW)
    assert convert.convert(options).cases == 2
    return root


@pytest.fixture(scope="module")
def model(cohort, tmp_path_factory):
    """A network of thresholds, as if it had been trained with modality dropout."""
    raw = nifti.read_case(layouts.find_cases(cohort)[0])
    return stand_in.save_model(
        tmp_path_factory.mktemp("model") / "saved_model",
        RECIPE,
        raw,
        missing=MissingModalities(0.5, {"": 3}, {"": 1, "t1ce": 2}),
    )


def evaluate(model, root, **flags):
    options = EvaluateOptions(model=str(model), output_dir=str(root), **{"pictures": 1, **flags})
    evaluate_and_report(options)
    return json.loads((root / "metrics.json").read_text())


def dice_of(value):
    return {
        row["case_id"]: [row["metrics"][region]["dice"] for region in spec.REGIONS]
        for row in value["rows"]
    }


def test_files_and_records_give_the_same_figures(model, cohort, dataset, tmp_path, capsys):
    files = evaluate(model, tmp_path / "files", input_dir=str(cohort))
    text = capsys.readouterr().out
    assert "complete (1 case): WT Dice" in text and "without t1ce (1 case): WT Dice" in text
    records = evaluate(model, tmp_path / "records", data_dir=str(dataset))
    assert [row["missing"] for row in files["rows"]] == [[], ["t1ce"]]
    assert {row["case_id"]: row["missing"] for row in records["rows"]} == {
        ID(1): [],
        ID(2): ["t1ce"],
    }
    assert dice_of(files) == dice_of(records)
    assert "validated on 2 such cases" in files["rows"][1]["warnings"][0]
    assert files["header"]["missing_modalities"].startswith("trained with modality dropout 0.5")
    assert "modalities_dropped" not in files["header"]
    header = (tmp_path / "files" / "metrics.csv").read_text().splitlines()[0]
    assert "missing" in header.split(",")
    assert "Mean Dice by missing modalities" in (tmp_path / "files" / "report.html").read_text()


def test_dropping_is_lacking(model, cohort, dataset, tmp_path, capsys):
    """The case that has T1ce is segmented as if it had none, from files and records alike."""
    lacking = tmp_path / "cohort"
    shutil.copytree(cohort, lacking)
    (lacking / ID(1) / f"{ID(1)}_t1ce.nii.gz").unlink()
    expected = evaluate(model, tmp_path / "lacking", input_dir=str(lacking))
    for source in ({"input_dir": str(cohort)}, {"data_dir": str(dataset)}):
        root = tmp_path / next(iter(source))
        value = evaluate(model, root, drop_modalities="t1ce", **source)
        assert dice_of(value) == dice_of(expected)
        assert all(row["missing"] == ["t1ce"] for row in value["rows"])
        assert value["header"]["modalities_dropped"] == ["t1ce"]
        assert value["identity"]["--drop_modalities"] == ["t1ce"]
    compared = tmp_path / "input_dir" / "metrics.json"
    capsys.readouterr()
    evaluate(model, tmp_path / "compared", input_dir=str(cohort), compare=str(compared))
    assert "(without t1ce)" in capsys.readouterr().out
    assert "as if no case had t1ce" in (tmp_path / "compared" / "report.html").read_text()
    with pytest.raises(InputError, match=r"--drop_modalities was \['t1ce'\], now not given"):
        evaluate(model, tmp_path / "input_dir", input_dir=str(cohort))


@pytest.mark.parametrize(
    "dropped, message",
    [
        (
            "t1",
            "--drop_modalities=t1: the model does not read t1; expected some of flair, t1ce, t2",
        ),
        ("flair,t1ce,t2", "the model reads no others"),
        ("t3", "expected distinct names out of t1,t1ce,t2,flair"),
        ("t2,t2", "expected distinct names"),
        ("t2,", "expected distinct names"),
    ],
)
def test_what_cannot_be_dropped_is_refused(model, cohort, tmp_path, dropped, message):
    with pytest.raises(InputError, match=message):
        evaluate(model, tmp_path / "out", input_dir=str(cohort), drop_modalities=dropped)
    assert not (tmp_path / "out").exists()


def test_a_model_of_complete_cases_refuses(cohort, dataset, tmp_path):
    raw = nifti.read_case(layouts.find_cases(cohort)[0])
    model = stand_in.save_model(tmp_path / "saved_model", RECIPE, raw)
    with pytest.raises(InputError, match="t2: the model was never trained without t2; evaluate"):
        evaluate(model, tmp_path / "out", input_dir=str(cohort), drop_modalities="t2")
    for source in ({"input_dir": str(cohort)}, {"data_dir": str(dataset)}):
        rows = evaluate(model, tmp_path / next(iter(source)), **source)["rows"]
        reasons = {row["case_id"]: row["reason"] for row in rows}
        assert reasons[ID(1)] is None
        assert reasons[ID(2)].startswith(
            f"{ID(2)}: no t1ce image; this model needs flair, t1ce, t2"
        )
