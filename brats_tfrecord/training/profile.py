"""Whether input or arithmetic is what a run waits for: step and loader, together and alone."""

import dataclasses
import statistics
import time

from tqdm import tqdm

from brats_tfrecord.training import loop
from brats_tfrecord.training.trainer import Trainer

WARM_UP = 3
STEPS, FEWEST_STEPS, SECONDS = 20, 3, 60
"""Steps that are timed; fewer where they are slow: no more are begun after so many seconds."""


def profile(options):
    """Times training steps as `options` would make them; writes nothing and keeps nothing.

    Args:
        options: `TrainOptions`.

    Returns:
        The table as text: medians over up to `STEPS` steps after `WARM_UP`.

    Raises:
        InputError: as `loop.train`.
    """
    dataset, train_folds, strategy = loop.prepare(options)
    # Enough epochs to take every step from fresh data.
    long = dataclasses.replace(options, epochs=max(options.epochs, 4 * (WARM_UP + STEPS)))
    trainer = Trainer(long, dataset, train_folds, strategy)
    batches = iter(trainer.train_batches())
    repeated = next(batches)
    real = _times("step with real input", lambda: _step(trainer, next(batches)))
    synthetic = _times("step with one batch, repeated", lambda: _step(trainer, repeated))
    loader = _times("loader alone", lambda: next(batches))
    waiting = max(0.0, 1 - synthetic / real)
    lines = [f"{'':32}{'s a step':>10}{'volumes/s':>12}"]
    for name, seconds in (
        ("step with real input", real),
        ("step with one batch, repeated", synthetic),
        ("loader alone", loader),
    ):
        lines.append(f"{name:32}{seconds:10.4f}{options.batch_size / seconds:12.2f}")
    lines.append(
        f"Waiting for input: {waiting:.1%} of the step. " + _verdict(waiting, synthetic, loader)
    )
    return "\n".join(lines)


def _verdict(waiting, synthetic, loader):
    if waiting < 0.05:
        return "The devices are what limits this run."
    if loader < synthetic:
        return (
            "The loader is quick enough by itself, but takes processor time from the step: "
            "more cores, or a lighter --augment."
        )
    return (
        "The loader is what limits this run: give it more cores, --cache=memory, or a lighter "
        "--augment."
    )


def _step(trainer, batch):
    return float(trainer.train_step(batch).loss)  # reading it waits for the step


def _times(name, call):
    seconds = []
    for _ in tqdm(range(WARM_UP + STEPS), desc=name, leave=False, disable=None):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
        if len(seconds) >= WARM_UP + FEWEST_STEPS and sum(seconds[WARM_UP:]) > SECONDS:
            break
    return statistics.median(seconds[WARM_UP:])
