import datetime
import json

import pytest
from optimizer_names import parameters

from brats_tfrecord.training import run_card
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.train_options import TrainOptions
from brats_tfrecord.training.trainer import Trainer

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
def begin(dataset, tmp_path):
    """Function (epochs finished before, flags) -> the card of a new session in one folder."""

    def begin(finished_epochs=0, **flags):
        options = TrainOptions(
            str(dataset.root),
            str(tmp_path),
            **{
                "test_fold": "2",
                "filters": "2,4",
                "patch_size": 12,
                "precision": "float32",
                **flags,
            },
        )
        trainer = Trainer(options, dataset, [1], devices.make_strategy("none"))
        return run_card.RunCard(trainer, finished_epochs)

    return begin


@pytest.fixture
def read(tmp_path):
    """Function () -> the card as JSON and as text."""
    return lambda: (
        json.loads((tmp_path / "run_card.json").read_text()),
        (tmp_path / "run_card.md").read_text(),
    )


def test_the_card_describes_the_run(begin, read, dataset):
    begin(learning_rate=0.01).write("finished", ROWS, best_epoch=2)
    card, text = read()
    assert card["not_default"] == [
        "data_dir",
        "model_dir",
        "test_fold",
        "patch_size",
        "learning_rate",
        "filters",
        "precision",
    ]
    assert card["flags"]["batch_size"] == 2 and "tensorflow" in card["versions"]
    assert card["dataset"]["fingerprint"] == dataset.fingerprint
    assert card["dataset"]["folds"] == {"training": [1], "validation": [0], "test": [2]}
    assert card["dataset"]["cases"] == {"training": 2, "validation": 2, "test": 2}
    assert card["network"]["stride"] == 2 and card["network"]["patch_shape"] == [12, 12, 12]
    assert card["result"]["best"]["val_dice_TC"] == 0.8
    for words in (
        "--learning_rate",
        f"{card['network']['parameters']:,}",
        "20x17x16, 12x12x12",
        dataset.fingerprint,
        "| Dice TC, tumour core, validation",
        "**finished** after 2 of 30 epochs.",
    ):
        assert words in text


def test_timings_by_hand(begin, read):
    begin().write("finished", ROWS, best_epoch=2)
    timings = read()[0]["timings"]
    assert timings["training_seconds"] == 40 and timings["epoch_seconds_median"] == 20
    assert timings["volumes_per_second_median"] == 3
    assert timings["input_wait"] == pytest.approx((0.5 * 10 + 0.1 * 30) / 40)


@pytest.mark.parametrize("optimizer, listed", [("lamb", False), parameters("ranger", True)])
def test_addons_are_listed_if_the_optimizer_comes_from_them(begin, read, optimizer, listed):
    begin(optimizer=optimizer).write("finished", ROWS, best_epoch=2)
    assert ("tensorflow-addons" in read()[0]["versions"]) == listed


def test_sessions_are_listed_and_one_without_an_end_was_killed(begin, read, monkeypatch):
    """The first session is killed 90 s after it began, the second is stopped after 5.25 s."""

    def at(day, seconds=0.0):
        moment = datetime.datetime(2026, 5, day, 10, tzinfo=datetime.timezone.utc)
        moment += datetime.timedelta(seconds=seconds)
        monkeypatch.setattr(run_card, "now", lambda: moment)

    at(day=4)
    killed = begin()
    killed.write(run_card.RUNNING, [], best_epoch=None)
    at(day=4, seconds=90)
    killed.write(run_card.RUNNING, ROWS[:1], best_epoch=None)
    at(day=5)
    resumed = begin(finished_epochs=1)
    resumed.write(run_card.RUNNING, ROWS[:1], best_epoch=None)
    at(day=5, seconds=5.25)
    resumed.write("stopped by SIGTERM", ROWS, best_epoch=2)
    card, text = read()
    assert card["sessions"] == [
        {
            "begun": "2026-05-04T10:00:00.000+00:00",
            "last_seen": "2026-05-04T10:01:30.000+00:00",
            "seconds": 90.0,
            "epochs_before": 0,
            "epochs_after": 1,
            "state": "killed",
        },
        {
            "begun": "2026-05-05T10:00:00.000+00:00",
            "last_seen": "2026-05-05T10:00:05.250+00:00",
            "seconds": 5.25,
            "epochs_before": 1,
            "epochs_after": 2,
            "state": "stopped by SIGTERM",
        },
    ]
    assert card["timings"]["sessions_seconds"] == 95.25
    assert card["state"] == "stopped by SIGTERM" and "resumed once" in text


def test_sessions_of_another_run_or_of_a_damaged_card_are_not_listed(begin, read, tmp_path):
    begin(learning_rate=9.0).write("diverged", ROWS, best_epoch=2)
    begin().write("finished", ROWS, best_epoch=2)
    assert len(read()[0]["sessions"]) == 1
    (tmp_path / "run_card.json").write_text("{")
    begin().write("finished", ROWS, best_epoch=2)
    assert len(read()[0]["sessions"]) == 1


def test_a_run_without_epochs_has_a_card(begin, read):
    begin(validation_fold="none").write("stopped by SIGTERM", [], best_epoch=None)
    card, text = read()
    assert card["result"]["best"] == {} and card["timings"]["input_wait"] is None
    assert "not measured" in text and "no fold" in text
