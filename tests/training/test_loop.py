import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import metrics, pieces, stopping
from brats_tfrecord.errors import InputError, Stopped, TrainingDiverged
from brats_tfrecord.preprocess import masks
from brats_tfrecord.records import manifest as manifests
from brats_tfrecord.training import loop, steps
from brats_tfrecord.training.data import input_pipeline
from brats_tfrecord.training.network import networks
from brats_tfrecord.training.train_options import TrainOptions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_tracing")]

LOSS_COLUMNS = ("loss", "accuracy", "val_loss", "val_accuracy", "val_dice_mean")


def options(dataset, model_dir, **changes):
    """A network with two levels, so that the crop's 17 voxels need padding, without dropout."""
    small = {
        "filters": "4,8",
        "dropout": "0",
        "patch_size": 12,
        "epochs": 3,
        "learning_rate": 0.01,
        "loss": "dice_cross_entropy",
        "precision": "float32",
    }
    return TrainOptions(str(dataset.root), str(model_dir), **{**small, **changes})


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """An uninterrupted run of three epochs: (options, result)."""
    chosen = options(dataset, tmp_path_factory.mktemp("models") / "unbroken")
    return chosen, loop.train(chosen)


@pytest.fixture
def copy(finished, tmp_path):
    """Options of the finished run with a copy of its folder, which a test may damage."""
    shutil.copytree(finished[0].model_dir, tmp_path / "copy")
    return dataclasses.replace(finished[0], model_dir=str(tmp_path / "copy"))


def curve(result, columns=LOSS_COLUMNS):
    return np.array([[row[name] for name in columns] for row in result.history])


def test_the_loss_falls_and_the_folder_holds_the_run(finished, dataset):
    chosen, result = finished
    losses = [row["loss"] for row in result.history]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert result.select_case_ids == dataset.case_ids([0])
    assert result.train_case_ids == dataset.case_ids([1, 2])
    assert result.modalities == ("flair", "t1ce", "t2") and result.targets == "classes"
    written = {
        str(path.relative_to(chosen.model_dir))
        for path in pathlib.Path(chosen.model_dir).rglob("*.*")
        if path.is_file()
    }
    assert {
        "run.json",
        "history.csv",
        "history.png",
        "checkpoints/last-00003-000000.index",
        f"checkpoints/best-{result.best_epoch:05d}.index",
    } <= written


def test_the_result_reproduces_the_scores_of_the_best_epoch(finished, dataset):
    """Recomputes the Dice of the history from the weights, with the metrics of the evaluation."""
    _, result = finished
    model = networks.build_network(result.network).model
    model.set_weights(result.weights)
    dice = []
    for case in input_pipeline.make_eval_dataset(dataset, (0,), modalities=result.modalities):
        image = pieces.pad_to_stride(tf.cast(case["image"], tf.float32), result.piece.stride)
        prediction = np.argmax(model(image)[0, :, :17], -1).astype(np.uint8)
        truth = masks.unpack_classes(case["mask"][0].numpy())
        scores = metrics.case_metrics(truth, prediction, (1.0, 1.0, 1.0))
        dice.append([scores[region]["dice"] for region in ("WT", "TC", "ET")])
    best = result.history[result.best_epoch - 1]
    assert best["val_dice_mean"] == max(row["val_dice_mean"] for row in result.history)
    np.testing.assert_allclose(
        np.mean(dice, axis=0),
        [best[f"val_dice_{region}"] for region in ("WT", "TC", "ET")],
        atol=1e-6,
    )


def test_a_killed_run_resumes_like_an_uninterrupted_one(finished, dataset, tmp_path):
    chosen, unbroken = finished
    first = dataclasses.replace(chosen, model_dir=str(tmp_path / "broken"), epochs=1)
    loop.train(first)
    # Killed after the row of epoch 2 was written, before its checkpoint was.
    with open(tmp_path / "broken/history.csv", "a") as stream:
        stream.write("2" + 12 * ",9" + "\n")
    resumed = loop.train(dataclasses.replace(first, epochs=3))
    np.testing.assert_allclose(curve(resumed), curve(unbroken), rtol=1e-5)
    for a, b in zip(resumed.weights, unbroken.weights):
        np.testing.assert_allclose(a, b, atol=1e-5)


class StopAtThirdLook(stopping.StopRequest):
    """Requests a stop after three steps or validation batches."""

    looks = 0

    @property
    def reason(self):
        self.looks += 1
        return "stopped by a test" if self.looks >= 3 else None


def test_a_run_that_is_stopped_repeatedly_resumes_exactly(finished, tmp_path, monkeypatch):
    chosen, unbroken = finished
    monkeypatch.setattr(loop, "StopRequest", StopAtThirdLook)
    stopping_options = dataclasses.replace(chosen, model_dir=str(tmp_path))
    stops, resumed = [], None
    while not resumed:
        try:
            resumed = loop.train(stopping_options)
        except Stopped as stop:
            assert stop.exit_code == 75
            stops.append(re.search("after step (\\d) of epoch (\\d) is saved", str(stop)).groups())
    # An epoch has two steps and two validation batches; a stopped validation begins again.
    assert stops == [("2", "1"), ("1", "2"), ("2", "2"), ("1", "3"), ("2", "3")]
    np.testing.assert_array_equal(curve(resumed), curve(unbroken))
    for a, b in zip(resumed.weights, unbroken.weights):
        np.testing.assert_array_equal(a, b)


def test_the_time_limit_stops_after_a_step(dataset, tmp_path):
    with pytest.raises(Stopped, match="--time_limit_minutes=1e-09 are over; .* after step 1"):
        loop.train(options(dataset, tmp_path, time_limit_minutes=1e-9))


def test_two_replicas_give_the_loss_curve_of_one(finished, dataset, tmp_path):
    chosen, one = finished
    two = loop.train(
        dataclasses.replace(chosen, model_dir=str(tmp_path / "two"), virtual_devices=2)
    )
    # The order of sums differs: float32 rounding errors, amplified by three epochs of steps.
    np.testing.assert_allclose(
        curve(two, ("loss", "val_loss")), curve(one, ("loss", "val_loss")), rtol=1e-4
    )


def test_a_finished_run_returns_the_same_result(copy, finished, capsys):
    rerun = loop.train(copy)
    assert "finished" in capsys.readouterr().out
    assert rerun.best_epoch == finished[1].best_epoch and rerun.history == finished[1].history
    for a, b in zip(rerun.weights, finished[1].weights):
        np.testing.assert_array_equal(a, b)


def test_the_result_has_the_weights_of_the_best_epoch_not_the_last(copy, finished):
    result = finished[1]
    best = networks.build_network(result.network)
    best.model.set_weights([np.full_like(array, 0.5) for array in result.weights])
    name = f"best-{result.best_epoch:05d}"
    tf.train.Checkpoint(model=best.trainer).write(f"{copy.model_dir}/checkpoints/{name}")
    assert all((array == 0.5).all() for array in loop.train(copy).weights)


def test_a_folder_of_another_run_is_refused_with_all_differences(copy, monkeypatch, other_dataset):
    changed = dataclasses.replace(copy, learning_rate=0.02, seed=3)
    with pytest.raises(InputError, match="--learning_rate was 0.01, now 0.02; --seed was 0, now 3"):
        loop.train(changed)
    monkeypatch.setattr(manifests, "load", lambda root: other_dataset)
    with pytest.raises(InputError, match="--data_dir holds another dataset"):
        loop.train(copy)


def test_a_folder_with_other_files_is_refused(dataset, tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(InputError, match="holds no run"):
        loop.train(options(dataset, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"validation_fold": "3"}, "--validation_fold=3: .*expected one of 0, 1, 2 or none"),
        ({"batch_size": 3, "virtual_devices": 2}, "--batch_size=3: .*2 replicas"),
    ],
)
def test_nothing_is_written_if_the_flags_do_not_fit(dataset, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        loop.train(options(dataset, tmp_path / "model", **changes))
    assert not (tmp_path / "model").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_frees_its_folder(dataset, tmp_path):
    wild = options(dataset, tmp_path / "model", learning_rate=1e30)
    with pytest.raises(TrainingDiverged, match=r"step 2 of epoch 1 with case\d, case\d; nothing"):
        loop.train(wild)
    # Other flags in the same folder. Without validation the last epoch is the result.
    tame = options(
        dataset,
        tmp_path / "model",
        epochs=1,
        validation_fold="none",
        test_fold="1",
        optimizer="lamb",
        schedule="cosine",
        precision="mixed_bfloat16",
        patch_size=0,
        modalities="t2",
    )
    result = loop.train(tame)
    assert result.best_epoch == 1 and result.select_case_ids == []
    assert result.train_case_ids == dataset.case_ids([0, 2])
    assert all(array.dtype == np.float32 for array in result.weights)
    assert tf.keras.mixed_precision.global_policy().name == "float32"


def test_a_validation_loss_that_is_not_finite_stops_the_run_and_is_in_its_card(dataset, tmp_path):
    """After a single step the loss and the weights are still finite, though 1e30."""
    wild = options(dataset, tmp_path, learning_rate=1e30, batch_size=4)
    with pytest.raises(TrainingDiverged, match="validation loss became NaN.*is kept in .*, in a"):
        loop.train(wild)
    card = json.loads((tmp_path / "run_card.json").read_text())
    assert card["state"].startswith("the validation loss became NaN or infinite at step 2")


def test_region_dice_by_hand():
    truth = tf.reshape(tf.constant([1, 2, 3, 0, 0, 0, 0, 0]), (2, 4, 1, 1))
    prediction = tf.reshape(tf.constant([1, 2, 2, 2, 0, 0, 0, 0]), (2, 4, 1, 1))
    # Whole tumour: 3 common voxels of 3 and 4. The second example is empty in both.
    np.testing.assert_allclose(steps.region_dice(truth, prediction, (1, 2, 3)), [6 / 7, 1])
    np.testing.assert_allclose(steps.region_dice(truth, prediction, (1, 3)), [2 / 3, 1], rtol=1e-6)
    np.testing.assert_allclose(steps.region_dice(truth, prediction, (3,)), [0, 1])
    np.testing.assert_allclose(steps.accuracy(truth, prediction), [0.5, 1])


def test_a_finished_model_without_checkpoints_is_not_replaced(copy):
    """A user may delete the checkpoints to save disk space."""
    shutil.rmtree(pathlib.Path(copy.model_dir) / "checkpoints")
    with pytest.raises(InputError, match="--learning_rate was 0.01, now 0.3"):
        loop.train(dataclasses.replace(copy, learning_rate=0.3))
    with pytest.raises(InputError, match="history.csv: has rows of 3 epochs, but their"):
        loop.train(copy)


def test_if_both_checkpoints_are_damaged_the_run_is_refused(copy):
    first, second = (pathlib.Path(copy.model_dir) / "checkpoints").glob("last-*.data*")
    for data in (first, second):
        data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(InputError, match="last-00003-000000: this checkpoint is damaged"):
        loop.train(copy)


def test_from_the_checkpoint_before_a_damaged_one_the_run_ends_as_it_did(copy, finished, capsys):
    """The state before the last epoch's validation, which is then repeated."""
    checkpoints = pathlib.Path(copy.model_dir) / "checkpoints"
    (checkpoints / "last-00003-000000.index").write_bytes(b"torn")
    resumed = loop.train(copy)
    assert "continuing from the state before it, last-00002-000002" in capsys.readouterr().out
    np.testing.assert_array_equal(curve(resumed), curve(finished[1]))
    for a, b in zip(resumed.weights, finished[1].weights):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("with_card", [True, False])
def test_a_lost_history_costs_its_rows_not_the_run(copy, finished, capsys, with_card):
    """Two more epochs, from a run of three."""
    folder = pathlib.Path(copy.model_dir)
    (folder / "history.csv").unlink()
    if not with_card:
        (folder / "run_card.json").unlink()
    resumed = loop.train(dataclasses.replace(copy, epochs=5))
    lines = [line for line in capsys.readouterr().out.splitlines() if "history.csv" in line]
    assert len(lines) == 1 and "history.csv: is missing or damaged; the row" in lines[0]
    scores = [row["val_dice_mean"] for row in resumed.history]
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3, 4, 5]
    best, before = resumed.best_epoch, finished[1].best_epoch
    assert (scores[before - 1] is not None) == with_card
    assert best == scores.index(max(score for score in scores if score is not None)) + 1
    assert scores[3] is not None and scores[4] is not None


def test_the_learning_rate_of_the_history_is_that_of_the_last_step(dataset, tmp_path):
    """Two epochs of two steps, polynomial: the steps take (1, 3/4, 2/4, 1/4) ** 0.9 of it."""
    result = loop.train(
        options(dataset, tmp_path, epochs=2, schedule="polynomial", learning_rate=0.5)
    )
    np.testing.assert_allclose(
        [row["learning_rate"] for row in result.history],
        [0.5 * 0.75**0.9, 0.5 * 0.25**0.9],
        rtol=1e-6,
    )
