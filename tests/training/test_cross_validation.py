import csv
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import workflow
from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.serving import card
from brats_tfrecord.training import cross_validation
from brats_tfrecord.training.train_options import TrainOptions

pytestmark = pytest.mark.slow

ROWS = [
    cross_validation.fold_row(
        fold,
        2,
        {
            "epoch": 3,
            "val_dice_WT": wt,
            "val_dice_TC": 0.5,
            "val_dice_ET": 0.25,
            "val_dice_mean": 0.5,
        },
    )
    for fold, wt in enumerate((0.7, 0.8, 0.9))
]


def options(dataset, model_dir, **changes):
    small = {
        "validation_fold": "all",
        "filters": "2,4",
        "dropout": "0",
        "patch_size": 8,
        "epochs": 1,
        "precision": "float32",
        "augment": "none",
    }
    return TrainOptions(str(dataset.root), str(model_dir), **{**small, **changes})


def test_mean_and_deviation_over_the_folds_by_hand():
    means, deviations = cross_validation.over_folds(ROWS)
    assert means["dice_WT"] == pytest.approx(0.8) and deviations["dice_WT"] == pytest.approx(0.1)
    assert means["dice_TC"] == 0.5 and deviations["dice_TC"] == 0
    assert cross_validation.to_csv(ROWS).splitlines()[1] == "0,2,3,0.7,0.5,0.25,0.5"
    assert [line.split(",")[0] for line in cross_validation.to_csv(ROWS).splitlines()] == [
        "fold",
        "0",
        "1",
        "2",
        "mean",
        "sd",
    ]
    assert "0.800 ± 0.100" in cross_validation.to_text(ROWS).splitlines()[-1]


def test_each_fold_but_the_test_fold_is_validated_once(dataset, tmp_path):
    runs = cross_validation.cross_validation_runs(
        options(dataset, tmp_path, test_fold="1"), dataset
    )
    assert [(run.validation_folds, cross_validation.train_folds(run, dataset)) for run in runs] == [
        ((0,), [2]),
        ((2,), [0]),
    ]
    assert [run.model_dir for run in runs] == [f"{tmp_path}/fold0", f"{tmp_path}/fold2"]


def test_a_time_budget_is_divided_among_the_runs(dataset, tmp_path):
    """Three folds have a tenth of the hour left for the average of their networks."""
    chosen = TrainOptions(
        str(dataset.root), str(tmp_path), validation_fold="all", time_budget_minutes=60.0
    )
    runs = cross_validation.cross_validation_runs(chosen, dataset)
    assert [run.time_budget_minutes for run in runs] == [18.0] * 3


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"test_fold": "7"}, "--test_fold=7: .*no labelled case in that fold"),
        ({"data_dir": "nowhere"}, "nowhere: is not a dataset"),
    ],
)
def test_nothing_is_written_if_the_flags_do_not_fit(dataset, tmp_path, changes, message):
    chosen = dataclasses.replace(options(dataset, tmp_path / "model"), **changes)
    with pytest.raises(InputError, match=message):
        workflow.cross_validate(chosen)
    assert not (tmp_path / "model").exists()


def test_a_single_fold_cannot_be_cross_validated(dataset, tmp_path):
    few = dataclasses.replace(dataset, folds=1)
    with pytest.raises(InputError, match="--validation_fold=all: .*has 1 folds.*expected two"):
        cross_validation.cross_validation_runs(options(dataset, tmp_path), few)


def test_a_stopped_cross_validation_resumes_and_writes_its_table(dataset, tmp_path, monkeypatch):
    """It is stopped before its second fold; the rerun trains only that fold."""
    chosen = options(dataset, tmp_path / "model", test_fold="2")
    train, trained = workflow.train, []

    def stopping(run, initial, began):
        if len(trained) == 1:
            raise Stopped("time limit")
        trained.append(run.validation_fold)
        return train(run, initial, began)

    monkeypatch.setattr(workflow, "train", stopping)
    with pytest.raises(Stopped):
        workflow.cross_validate(chosen)
    first = (tmp_path / "model/fold0/history.csv").read_bytes()
    monkeypatch.setattr(workflow, "train", train)

    # Other flags are refused once the folds hold results, also those of a single run.
    for change, message in (
        ({"learning_rate": 0.5}, "--learning_rate was 0.001, now 0.5"),
        ({"validation_fold": "0"}, "--validation_fold was all, now 0"),
    ):
        with pytest.raises(InputError, match=f"model: belongs to another run: {message}"):
            changed = dataclasses.replace(chosen, **change)
            (workflow.cross_validate if changed.cross_validates else train)(changed)

    rows, table, ensemble = workflow.cross_validate(chosen)
    assert (tmp_path / "model/fold0/history.csv").read_bytes() == first
    assert [row["fold"] for row in rows] == [0, 1]
    with open(table, newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["fold"] for line in lines] == ["0", "1", "mean", "sd"]
    np.testing.assert_allclose(
        float(lines[2]["dice_mean"]), np.mean([row["dice_mean"] for row in rows])
    )
    for fold in (0, 1):
        exported = card.read(tmp_path / f"model/fold{fold}/saved_model")
        assert list(exported.select_case_ids) == dataset.case_ids([fold])
        assert list(exported.train_case_ids) == dataset.case_ids([1 - fold])
    assert ensemble == tmp_path / "model/saved_model"
    _assert_averages(ensemble, [tmp_path / f"model/fold{fold}/saved_model" for fold in (0, 1)])
    both = card.read(ensemble)
    assert both.members == 2 and both.select_case_ids == ()
    assert list(both.train_case_ids) == dataset.case_ids([0, 1])


def _assert_averages(ensemble, members):
    image = tf.random.stateless_normal([1, 8, 6, 4, 3], (1, 2))
    answers = [
        tf.saved_model.load(str(path)).signatures["serving_default"](image=image)
        for path in (ensemble, *members)
    ]
    whole, *parts = (answer["probabilities"].numpy() for answer in answers)
    np.testing.assert_allclose(whole, np.mean(parts, axis=0), atol=1e-6)
    assert np.abs(parts[0] - parts[1]).max() > 1e-3
