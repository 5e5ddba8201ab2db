"""The training loop dispatches steps without waiting for their results."""

import functools
import re
import threading

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.errors import TrainingDiverged
from brats_tfrecord.training import loop, trainer
from brats_tfrecord.training.late_reader import MOST_UNREAD
from brats_tfrecord.training.steps import StepResult
from brats_tfrecord.training.train_options import TrainOptions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_tracing")]

STEPS = 24
"""Steps of the only epoch: four cases, twelve patches of each, batches of two."""


def train(dataset, model_dir, **changes):
    flags = {"filters": "2,4", "patch_size": 8, "patches_per_case": 12, "validation_fold": "none"}
    flags |= {"test_fold": "0", "epochs": 1, "precision": "float32", **changes}
    return loop.train(TrainOptions(str(dataset.root), str(model_dir), **flags))


class Device:
    """A stand-in for a GPU: finishes a step only when `lag` later ones have been dispatched.

    The loss of step n, counted from 1, is 1 / n, unless `losses` has another one.
    """

    def __init__(self, lag, losses=()):
        self.lag, self.losses = lag, dict(losses)
        self.dispatched, self.reads = 0, []
        self._changed = threading.Condition()

    def train_step(self, batch):
        with self._changed:
            self.dispatched += 1
            self._changed.notify_all()
        number = self.dispatched
        loss = self.losses.get(number, 1 / number)
        return StepResult(
            *(_Tensor(self, number, value) for value in (loss, np.float32(0.5), np.True_))
        )

    def release(self):
        """Finishes all steps."""
        with self._changed:
            self.lag = 0
            self._changed.notify_all()

    def wait_for(self, number):
        """Waits until step `number` is finished, and records what had been dispatched then."""

        def is_finished():
            return self.dispatched >= min(number + self.lag, STEPS)

        with self._changed:
            assert self._changed.wait_for(is_finished, timeout=60), (
                f"the loop waits for step {number} and has dispatched only {self.dispatched}"
            )
            self.reads.append((number, self.dispatched))


class _Tensor:
    def __init__(self, device, number, value):
        self._device, self._number, self._value = device, number, value

    def numpy(self):
        self._device.wait_for(self._number)
        return self._value


def install(monkeypatch, device):
    monkeypatch.setattr(trainer.Trainer, "train_step", property(lambda self: device.train_step))


def test_the_loop_runs_ahead_of_the_device(dataset, tmp_path, monkeypatch):
    device = Device(lag=MOST_UNREAD)
    install(monkeypatch, device)
    [row] = train(dataset, tmp_path).history
    assert row["loss"] == sum(1 / number for number in range(1, STEPS + 1)) / STEPS
    assert row["accuracy"] == 0.5
    assert all(
        dispatched >= min(number + MOST_UNREAD, STEPS) for number, dispatched in device.reads
    )
    assert [number for number, _ in device.reads[::3]] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("lag", [0, MOST_UNREAD])
def test_a_divergence_is_named_with_its_step_and_cases_before_more_is_dispatched(
    dataset, tmp_path, monkeypatch, lag
):
    device = Device(lag, {3: float("nan"), 4: float("inf")})
    install(monkeypatch, device)
    named = r"the loss became nan at step 3 of epoch 1 with case\d, case\d; nothing was saved"
    with pytest.raises(TrainingDiverged, match=named):
        train(dataset, tmp_path)
    device.release()
    assert device.dispatched <= 3 + MOST_UNREAD + 1


def test_a_save_reads_everything_before_it(dataset, tmp_path, monkeypatch):
    """Every step is saved, so the state after step 2 is the last one."""
    device = Device(0, {3: float("nan")})
    install(monkeypatch, device)
    with pytest.raises(TrainingDiverged, match="step 3 of epoch 1 .* last good state is kept"):
        train(dataset, tmp_path, checkpoint_minutes=0.0)
    assert device.dispatched == 3
    saved = {re.search(r"last-(\d+-\d+)", path.name)[1] for path in tmp_path.rglob("last-*.index")}
    assert saved == {"00000-000001", "00000-000002"}


def test_weights_that_are_not_finite_are_not_saved(dataset, tmp_path, monkeypatch):
    """The second step makes one of them infinite, though its loss is finite."""
    device = Device(0)

    def train_step(run_trainer, batch):
        result = device.train_step(batch)
        if device.dispatched == 2:
            bias = run_trainer.network.trainer.weights[1]
            bias.assign(tf.fill(bias.shape, np.inf))
        return result

    step = property(lambda self: functools.partial(train_step, self))
    monkeypatch.setattr(trainer.Trainer, "train_step", step)
    with pytest.raises(TrainingDiverged, match="weights became NaN or infinite at step 3 of"):
        train(dataset, tmp_path, checkpoint_minutes=0.0)
    assert [path.stem for path in tmp_path.rglob("last-*.index")] == ["last-00000-000001"]
