"""Measures what the parts of a run cost on this machine, before a time budget is planned."""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from brats_tfrecord.training.time_plan import Costs
from brats_tfrecord.training.trainer import Trainer

_TIMED_STEPS = 3
_EXPORT_SECONDS, _EXPORT_FIRST_STEPS = 3.0, 1.0
"""The export takes less than these seconds and this many times the first training step: both build
graphs of the network. Measured beside ten busy processes: 0.8 times, 70 s after a first step of
86 s (unet, patches of 96 voxels, two cores)."""

_DRAWING_SECONDS = 1.0
"""Pictures, run card and saved state of a validation."""

_TUNING_FACTOR = 3.0
"""Segmenting a case takes about this many times as long as validating it: float32 instead of
bfloat16, the whole brain instead of the crop, and the search for thresholds."""

_FLIPS = 8


def measure(trainer: Trainer) -> Costs:
    """Times some training steps and the validation of two batches; the trainer is as before.

    Every process of a multiworker run must call it.

    Args:
        trainer: trainer of a run that has not begun.

    Returns:
        The costs of the run. Those of tuning and export are estimates from the measured ones.
    """
    with _state_kept(trainer):
        batches = iter(trainer.train_batches())
        # Reading the result waits until the step is finished.
        first, *warm = (
            _seconds(lambda: bool(trainer.train_step(next(batches)).sound))
            for _ in range(1 + _TIMED_STEPS)
        )
    validation = tuning = 0.0
    if trainer.options.validation_folds:
        batch, count = _validation_batch(trainer)
        validation = batch * -(-count // trainer.strategy.num_replicas_in_sync) + _DRAWING_SECONDS
        if trainer.options.post_processing != "none":
            flips = _FLIPS if trainer.options.test_time_flips else 1
            tuning = _TUNING_FACTOR * batch * flips * count
    export = _EXPORT_SECONDS + _EXPORT_FIRST_STEPS * first
    return Costs(statistics.median(warm), validation, tuning, export)


def _validation_batch(trainer):
    """Seconds of a validation batch, and the number of validation cases."""
    count = len(trainer.dataset.case_ids(trainer.options.validation_folds))
    slices = tf.constant(np.zeros(count), tf.int32)
    batch = next(iter(trainer.eval_batches))

    def score():
        result = trainer.eval_step(batch, slices)
        for part in trainer.strategy.experimental_local_results(result.cases):
            part.numpy()

    _seconds(score)  # builds the graph
    return _seconds(score), count


@contextlib.contextmanager
def _state_kept(trainer: Trainer) -> Iterator[None]:
    """Restores weights and optimizer on leaving, as if the block had not trained."""
    state = tf.train.Checkpoint(model=trainer.network.trainer, updates=trainer.updates)
    with tempfile.TemporaryDirectory() as folder:
        path = state.write(str(Path(folder) / "state"))
        yield
        state.read(path).assert_consumed()


def _seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began
