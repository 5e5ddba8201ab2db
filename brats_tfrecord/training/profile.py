"""Measures whether a run waits for its input or for its devices."""

import dataclasses
import statistics
import time
from collections.abc import Callable

from tqdm import tqdm

from brats_tfrecord.training import loop
from brats_tfrecord.training.train_options import TrainOptions
from brats_tfrecord.training.trainer import Trainer

WARM_UP = 3
"""Steps before the timed ones; the first step builds the graph."""
STEPS, FEWEST_STEPS, SECONDS = 20, 3, 60
"""Timed steps. If steps are slow, none begins after `SECONDS`, but at least `FEWEST_STEPS` are."""


def profile(options: TrainOptions) -> str:
    """Times the training steps of a run, without training it; writes no files.

    Args:
        options: options of the run.

    Returns:
        A table as text: median times of a step with real input, of a step with one batch
        repeated, and of loading a batch; then which of them limits the run.

    Raises:
        InputError: as `loop.train`.
    """
    dataset, train_folds, strategy = loop.prepare(options)
    # Enough epochs that no step has to repeat a batch.
    options = dataclasses.replace(
        options, epochs=max(options.epochs, 4 * (WARM_UP + STEPS)), time_budget_minutes=0.0
    )
    trainer = Trainer(options, dataset, train_folds, strategy)
    batches = iter(trainer.train_batches())
    repeated = next(batches)

    def step(batch):
        bool(trainer.train_step(batch).sound)  # reading it waits until the gradients are there

    seconds = {
        name: median_seconds(call, name)
        for name, call in (
            ("step with real input", lambda: step(next(batches))),
            ("step with one batch, repeated", lambda: step(repeated)),
            ("loader alone", lambda: next(batches)),
        )
    }
    return "\n".join(
        [
            f"{'':32}{'s a step':>10}{'volumes/s':>12}",
            *(f"{name:32}{s:10.4f}{options.batch_size / s:12.2f}" for name, s in seconds.items()),
            _verdict(*seconds.values()),
        ]
    )


def median_seconds(call: Callable[[], object], name: str) -> float:
    """Times calls of a function.

    Args:
        call: function without arguments.
        name: text of the progress bar.

    Returns:
        The median of `STEPS` calls after `WARM_UP` untimed ones; of fewer if they are slow.
    """
    seconds = []
    for _ in tqdm(range(WARM_UP + STEPS), desc=name, leave=False, disable=None):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
        if len(seconds) >= WARM_UP + FEWEST_STEPS and sum(seconds[WARM_UP:]) > SECONDS:
            break
    return statistics.median(seconds[WARM_UP:])


def _verdict(real: float, repeated: float, loader: float) -> str:
    """Says what limits the run, from the seconds of the three measurements."""
    waiting = max(0.0, 1 - repeated / real)
    if waiting < 0.05:
        verdict = "The devices limit this run."
    elif loader < repeated:
        verdict = (
            "The loader is fast enough alone, but takes processor time from the step: "
            "use more cores, or a lighter --augment."
        )
    else:
        verdict = (
            "The loader limits this run: use more cores, --cache=memory, or a lighter --augment."
        )
    return f"Waiting for input: {waiting:.1%} of the step. {verdict}"
