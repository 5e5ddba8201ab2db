import json

import pytest

from brats_tfrecord.training.logbook import run_card
from brats_tfrecord.training.train_options import TrainOptions

ROWS = [
    {
        "epoch": 1,
        "loss": 0.9,
        "val_loss": None,
        "val_dice_mean": None,
        "volumes_per_second": 2.0,
        "seconds": 10.0,
        "input_wait": 0.5,
    },
    {
        "epoch": 2,
        "loss": 0.5,
        "val_loss": 0.6,
        "val_dice_WT": 0.9,
        "val_dice_TC": 0.8,
        "val_dice_ET": 0.7,
        "val_dice_mean": 0.8,
        "volumes_per_second": 4.0,
        "seconds": 30.0,
        "input_wait": 0.1,
    },
]


@pytest.fixture
def write(dataset, tmp_path):
    """Writes a card into a folder of its own; returns it as JSON and as text."""

    def written(
        state="finished",
        begun="2026-05-04T10:00:00.000+00:00",
        rows=ROWS,
        best_epoch=2,
        resumed_after=0,
        **flags,
    ):
        options = TrainOptions(str(dataset.root), str(tmp_path), **{"test_fold": "2", **flags})
        run_card.write(
            options,
            dataset,
            begun=begun,
            resumed_after=resumed_after,
            state=state,
            rows=rows,
            best_epoch=best_epoch,
            train_folds=[1],
            patch_shape=(12, 12, 12),
            precision="float32",
            network={"name": "unet", "parameters": 5645828, "stride": 16},
            devices=["CPU:0"],
        )
        card = json.loads((tmp_path / "run_card.json").read_text())
        return card, (tmp_path / "run_card.md").read_text()

    return written


def test_the_card_tells_what_the_run_was(write, dataset):
    card, text = write(learning_rate=0.01)
    assert card["not_default"] == ["data_dir", "model_dir", "test_fold", "learning_rate"]
    assert card["flags"]["batch_size"] == 2 and "tensorflow" in card["versions"]
    assert card["dataset"]["fingerprint"] == dataset.fingerprint
    assert card["dataset"]["folds"] == {"training": [1], "validation": [0], "test": [2]}
    assert card["dataset"]["cases"] == {"training": 2, "validation": 2, "test": 2}
    assert card["result"]["best"]["val_dice_TC"] == 0.8
    for words in (
        "--learning_rate",
        "5,645,828",
        "12x12x12",
        "20x17x16",
        dataset.fingerprint,
        "**finished** after 2 of 30 epochs.",
    ):
        assert words in text


def test_timings_by_hand(write):
    timings = write()[0]["timings"]
    assert timings["training_seconds"] == 40 and timings["epoch_seconds_median"] == 20
    assert timings["volumes_per_second_median"] == 3
    assert timings["input_wait"] == pytest.approx((0.5 * 10 + 0.1 * 30) / 40)


def test_addons_are_named_where_they_take_part(write):
    assert "tensorflow-addons" not in write()[0]["versions"]
    assert "tensorflow-addons" in write(optimizer="lamb")[0]["versions"]


def test_every_session_is_kept_and_one_without_an_end_was_killed(write):
    write("running", "2026-05-04T10:00:00.000+00:00", rows=ROWS[:1], best_epoch=None)
    write("running", "2026-05-05T10:00:00.000+00:00", resumed_after=1)
    card, text = write("stopped: time limit", "2026-05-05T10:00:00.000+00:00", resumed_after=1)
    assert [
        (one["begun"][8:10], one["epochs_before"], one["epochs_after"], one["state"])
        for one in card["sessions"]
    ] == [("04", 0, 1, "killed"), ("05", 1, 2, "stopped: time limit")]
    assert card["state"] == "stopped: time limit" and "resumed once" in text


def test_sessions_of_another_run_or_a_damaged_card_do_not_count(write, tmp_path):
    write("diverged: the loss became nan", "2026-05-04T10:00:00.000+00:00", learning_rate=9.0)
    assert len(write(begun="2026-05-05T10:00:00.000+00:00")[0]["sessions"]) == 1
    (tmp_path / "run_card.json").write_text("{")
    assert len(write(begun="2026-05-06T10:00:00.000+00:00")[0]["sessions"]) == 1


def test_a_run_without_any_epoch_has_a_card_too(write):
    card, text = write("stopped: SIGTERM", rows=[], best_epoch=None, validation_fold="none")
    assert card["result"]["best"] == {} and card["timings"]["input_wait"] is None
    assert "not measured" in text and "no fold" in text
