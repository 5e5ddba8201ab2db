"""Runs with --time_budget_minutes: with a clock that counts steps, and for real."""

import csv
import dataclasses
import functools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from brats_tfrecord import stopping
from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.training import loop, run_costs, trainer
from brats_tfrecord.training.time_plan import Costs
from brats_tfrecord.training.timed_length import TimedLength
from brats_tfrecord.training.train_options import TrainOptions


class Clock:
    """Counts seconds: a training step takes `pace(now)`, a validation batch half a second."""

    def __init__(self):
        self.now, self.pace = 0.0, lambda now: 1.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    train_step, eval_step = trainer.Trainer.train_step.func, trainer.Trainer.eval_step.func

    def timed(step, seconds):
        def timed_step(*arguments):
            clock.now += seconds()
            return step(*arguments)

        return timed_step

    def make_length(run_trainer, peers, began):
        share = run_trainer.updates.planned_share
        return TimedLength(
            run_trainer.options, run_trainer.epoch_steps, share, peers, clock.now, clock
        )

    steps = {
        "train_step": lambda self: timed(train_step(self), lambda: clock.pace(clock.now)),
        "eval_step": lambda self: timed(eval_step(self), lambda: 0.5),
    }
    for name, make_step in steps.items():
        made = functools.cached_property(make_step)
        made.__set_name__(trainer.Trainer, name)
        monkeypatch.setattr(trainer.Trainer, name, made)
    monkeypatch.setattr(loop, "make_length", make_length)
    monkeypatch.setattr(run_costs, "measure", lambda _: Costs(1.0, 1.0, 0.0, 5.0))
    return clock


def options(dataset, model_dir, **changes):
    flags = {
        "filters": "2,4",
        "dropout": "0",
        "patch_size": 8,
        "patches_per_case": 2,
        "precision": "float32",
        "schedule": "cosine",
        "averaging": "ema",
        "time_budget_minutes": 0.5,
        "checkpoint_minutes": 0.0,
    }
    return TrainOptions(str(dataset.root), str(model_dir), **{**flags, **changes})


def curve(result):
    names = ("loss", "val_loss", "learning_rate")
    return np.array([[row[name] for name in names] for row in result.history], float)


@pytest.mark.slow
@pytest.mark.usefixtures("without_tracing")
class TestWithAClockOfSteps:
    """Budget 30 s, target 28.2, export 5. Of 23.2 s, 3 are for validations, 20 for steps.

    An epoch has 4 steps: two patches of each of four cases, in batches of two.
    """

    def test_the_run_has_as_many_steps_as_fit(self, dataset, tmp_path, clock):
        result = loop.train(options(dataset, tmp_path))
        assert clock.now == 23 and len(result.history) == 5
        validated = [row["epoch"] for row in result.history if row["val_loss"] is not None]
        assert validated == [2, 4, 5]
        assert result.history[-1]["learning_rate"] < 0.01 * result.history[0]["learning_rate"]

    def test_a_load_that_begins_later_does_not_lengthen_the_run(self, dataset, tmp_path, clock):
        clock.pace = lambda now: 1.0 if now < 10 else 1.5
        result = loop.train(options(dataset, tmp_path))
        assert 17 <= clock.now <= 30 - 1.5 * 5
        assert result.history[-1]["learning_rate"] < 0.2 * result.history[0]["learning_rate"]

    def test_a_resumed_run_is_the_unbroken_one(self, dataset, tmp_path, clock, monkeypatch):
        unbroken = loop.train(options(dataset, tmp_path / "unbroken"))
        looks = iter(range(1, 10**6))

        class StopSometimes(stopping.StopRequest):
            reason = property(lambda self: None if next(looks) % 9 else "stopped by a test")

        monkeypatch.setattr(loop, "StopRequest", StopSometimes)
        clock.now, stops, resumed = 0.0, 0, None
        while not resumed:
            try:
                resumed = loop.train(options(dataset, tmp_path / "broken"))
            except Stopped:
                stops += 1
        assert stops >= 2
        np.testing.assert_array_equal(curve(resumed), curve(unbroken))
        for a, b in zip(resumed.weights, unbroken.weights):
            np.testing.assert_array_equal(a, b)

    def test_the_card_tells_the_plans_and_the_time_used(self, dataset, tmp_path, clock):
        chosen = options(dataset, tmp_path, preset="cpu", from_preset=("averaging",))
        loop.train(chosen)
        card = json.loads((tmp_path / "run_card.json").read_text())
        assert card["preset"] == {"name": "cpu", "flags": ["averaging"]}
        assert "from_preset" not in card["flags"]
        budget = card["time_budget"]
        assert budget["minutes"] == 0.5 and budget["used_seconds"] == clock.now
        assert budget["plans"][0]["steps_done"] == 0
        text = (tmp_path / "run_card.md").read_text()
        assert "## Flags set by --preset=cpu" in text and "| time budget" in text
        assert f"of {budget['epochs']} epochs" in text

    def test_another_budget_is_another_run(self, dataset, tmp_path, clock):
        loop.train(options(dataset, tmp_path))
        message = "--time_budget_minutes was 0.5, now 2.0"
        with pytest.raises(InputError, match=message):
            loop.train(options(dataset, tmp_path, time_budget_minutes=2.0))
        # The finished run is not trained again, and nothing limits its export.
        assert loop.train(options(dataset, tmp_path)).tuning_ends is None

    def test_a_budget_that_is_too_short_leaves_the_folder_free(self, dataset, tmp_path, clock):
        with pytest.raises(InputError, match="--time_budget_minutes=0.1: is too short"):
            loop.train(options(dataset, tmp_path, time_budget_minutes=0.1))
        assert not (tmp_path / "run.json").exists()

    @pytest.mark.soak
    @pytest.mark.parametrize("changes", [{"accumulate": 3}, {"virtual_devices": 2}])
    def test_it_works_with(self, dataset, tmp_path, clock, changes):
        assert loop.train(options(dataset, tmp_path, **changes)).history


@pytest.mark.slow
@pytest.mark.usefixtures("without_tracing")
def test_measuring_costs_leaves_the_trainer_as_it_was(dataset, tmp_path):
    chosen = options(dataset, tmp_path, optimizer="lamb", accumulate=2)
    _, folds, strategy = loop.prepare(chosen)
    built = trainer.Trainer(chosen, dataset, folds, strategy)
    before = [array.copy() for array in built.network.trainer.get_weights()]
    costs = run_costs.measure(built)
    for a, b in zip(built.network.trainer.get_weights(), before):
        np.testing.assert_array_equal(a, b)
    assert built.updates.applied == 0
    assert min(dataclasses.astuple(costs)) > 0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"epochs": 5}, "--epochs=5: --time_budget_minutes=0.5 plans epochs"),
        ({"validate_every": 2}, "--validate_every=2: --time_budget_minutes=0.5 plans"),
        ({"averaging": "swa"}, "--averaging=swa: .*give --averaging=ema"),
        ({"time_budget_minutes": -1.0}, "--time_budget_minutes=-1.0: expected"),
        ({"time_budget_minutes": float("inf")}, "--time_budget_minutes=inf: expected"),
        ({"time_budget_minutes": 1e9}, "--time_budget_minutes=1000000000.0: expected at most"),
        ({"warmup_epochs": -1.0}, "--warmup_epochs=-1.0: expected 0 or more"),
    ],
)
def test_flags_that_contradict_a_budget_are_refused(dataset, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        options(dataset, tmp_path, **changes)


@pytest.mark.soak
@pytest.mark.parametrize("load_after", [None, 0, 30])
def test_a_real_run_ends_within_its_budget(dataset, tmp_path, load_after):
    """One minute, alone and beside a busy loop on every core, which may begin in the middle."""
    tool = Path(__file__).parents[2] / "tools/train.py"
    command = [sys.executable, str(tool), f"--data_dir={dataset.root}", "--gpus=none"]
    command += [f"--model_dir={tmp_path / 'model'}", "--preset=cpu", "--filters=4,8,16"]
    command += ["--patch_size=16", "--time_budget_minutes=1"]
    began, loads = time.monotonic(), []
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        if load_after is not None:
            time.sleep(load_after)
            loads = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in "12"]
        output, _ = run.communicate()
    finally:
        for load in loads:
            load.kill()
    seconds = time.monotonic() - began
    assert run.returncode == 0, output
    assert 42 <= seconds <= 60, output
    assert (tmp_path / "model/saved_model/saved_model.pb").is_file()
    with open(tmp_path / "model/history.csv", newline="") as stream:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(stream)]
    assert rates[-1] < 0.1 * max(rates)
