"""A cohort that lacks modalities from its conversion to the report."""

import shutil

import pytest
from tiny_cohorts import write_tiny_case

from brats_tfrecord import workflow
from brats_tfrecord.cohort import layouts
from brats_tfrecord.evaluation.evaluate_options import EvaluateOptions
from brats_tfrecord.records import convert, manifest
from brats_tfrecord.records.convert_options import ConvertOptions
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving.predict import Segmenter
from brats_tfrecord.training.train_options import TrainOptions

pytestmark = pytest.mark.slow


def converted(tmp_path, lacking):
    """Converts four cases in two folds; `lacking` maps the number of a case to modalities."""
    for index in range(1, 5):
        folder = write_tiny_case(tmp_path / "cohort", index)
        for name in lacking.get(index, ()):
            (folder / f"{folder.name}_{name}.nii.gz").unlink()
    convert.convert(
        ConvertOptions(
            str(tmp_path / "cohort"),
            str(tmp_path / "dataset"),
            allow_missing=True,
            folds=2,
            jobs=1,
            bias_correction="none",
            crop="brain",
            crop_window="0:16,0:16,0:12",
        )
    )
    return manifest.load(tmp_path / "dataset")


def trained(tmp_path, **flags):
    options = TrainOptions(
        str(tmp_path / "dataset"),
        str(tmp_path / "model"),
        filters="2,4",
        patch_size=8,
        epochs=1,
        precision="float32",
        **flags,
    )
    return workflow.train_and_export(options).path


def test_a_cohort_of_two_modalities_is_trained_and_evaluated_like_any_other(tmp_path, capsys):
    converted(tmp_path, dict.fromkeys(range(1, 5), ("t1", "t2")))
    model = trained(tmp_path, modalities="flair,t1ce")
    assert "without a modality" not in capsys.readouterr().out
    assert "missing" not in cards.read_json(model)
    results = workflow.evaluate_and_report(
        EvaluateOptions(
            model=str(model),
            input_dir=str(tmp_path / "cohort"),
            output_dir=str(tmp_path / "report"),
            threshold_baselines=True,
        )
    )
    assert [result.status for result in results] == ["ok"] * 4
    assert not any(result.missing or result.warnings for result in results)


def test_the_card_counts_the_cases_of_training_and_validation(tmp_path, capsys):
    folds = {row.case_id: row.fold for row in converted(tmp_path, {}).cases}
    first = {fold: next(name for name in folds if folds[name] == fold) for fold in (0, 1)}
    for name in ("cohort", "dataset"):
        shutil.rmtree(tmp_path / name)
    lacking = {int(name[-3:]): ("t2",) for name in first.values()}
    converted(tmp_path, lacking)
    model = trained(tmp_path, validation_fold="0", modalities="flair,t2")
    text = capsys.readouterr().out
    assert "training cases without a modality, which the network sees as zeros: t2" in text
    assert cards.read(model).missing.to_json() == {
        "dropout": 0.0,
        "train": {"": 1, "t2": 1},
        "validated": {"": 1, "t2": 1},
    }
    [case] = [c for c in layouts.find_cases(tmp_path / "cohort") if c.case_id == first[0]]
    assert Segmenter(model).segment(case).warnings[0] == (
        "no t2 image: the network sees zeros in its place; the model was validated on 1 such case"
    )
