"""Schedules of a run: the learning rate, and the weight of the newest state in an average.

Both are pure functions of the number of updates, so a resumed run needs only that number; with a
time budget also the plan, which is part of the checkpoint.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from brats_tfrecord.training.optimization.planned_share import PlannedShare

POLYNOMIAL_POWER = 0.9
"""Exponent of the polynomial schedule, as in nnU-Net (Isensee et al. 2021)."""

EMA_DECAY = 0.999
"""Largest weight of the past in a moving average."""

SWA_SHARE = 4
"""Stochastic weight averaging takes the last epochs // SWA_SHARE epochs."""


def make_schedule(
    name: str, learning_rate: float, updates: int, warmup: int = 0
) -> float | tf.keras.optimizers.schedules.LearningRateSchedule:
    """Makes the schedule of the learning rate of a run.

    Args:
        name: "constant"; "cosine" (Loshchilov and Hutter 2017, without restarts) or "polynomial"
            (power 0.9), which end at 0.
        learning_rate: highest learning rate, reached after the warm-up.
        updates: number of updates of the run including the warm-up, more than `warmup`.
        warmup: number of first updates over which the learning rate grows linearly (Goyal et al.
            2017); the k-th of them takes k / warmup of it. The named schedule follows.

    Returns:
        The learning rate for `optimizers.make_optimizer`: a number if it never changes.
    """
    remaining = updates - warmup
    schedule: float | tf.keras.optimizers.schedules.LearningRateSchedule = learning_rate
    if name == "cosine":
        schedule = tf.keras.optimizers.schedules.CosineDecay(learning_rate, remaining)
    elif name == "polynomial":
        schedule = tf.keras.optimizers.schedules.PolynomialDecay(
            learning_rate, remaining, end_learning_rate=0.0, power=POLYNOMIAL_POWER
        )
    return _Warmup(schedule, learning_rate, warmup) if warmup else schedule


def make_planned_schedule(
    name: str, learning_rate: float, share: PlannedShare
) -> tf.keras.optimizers.schedules.LearningRateSchedule:
    """Makes the schedule of the learning rate of a run whose number of updates is planned.

    Args:
        name, learning_rate: as in `make_schedule`.
        share: the share of the run that is done, with the number of updates of the warm-up.

    Returns:
        The schedule, which follows every new plan of `share`.
    """
    return _Planned(_FALLING[name], learning_rate, share)


def make_averaging(name: str, epochs: int, updates: int) -> Callable[[tf.Tensor], tf.Tensor] | None:
    """Makes the schedule of the share of the newest weights in their average.

    At each update, `average += share * (weights - average)`.

    Args:
        name: "none"; "ema", the exponential moving average (Polyak and Juditsky 1992), whose
            memory is about a tenth of the updates so far and at most 1000 updates; or "swa",
            stochastic weight averaging (Izmailov et al. 2018): the equal mean of one state per
            epoch over the last quarter of the run, and the newest weights before that.
        epochs: number of epochs of the run; for "swa" at least `2 * SWA_SHARE`.
        updates: number of updates of the run.

    Returns:
        None for "none", else a function (int64 number of the update, from 1) -> float32 share.
    """
    if name == "none":
        return None
    if name == "ema":
        return _moving_share
    return lambda update: _mean_share(update, epochs, updates)


_FALLING: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "constant": tf.ones_like,
    "cosine": lambda share: (1 + tf.cos(math.pi * share)) / 2,
    "polynomial": lambda share: (1 - share) ** POLYNOMIAL_POWER,
}
"""Schedule -> function (share of the run, float32) -> share of the highest learning rate."""


class _Planned(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Grows linearly during the warm-up, then falls with the share of the run."""

    def __init__(self, falling, learning_rate, share):
        self._falling, self._learning_rate, self._share = falling, learning_rate, share

    def __call__(self, step):
        rising = (tf.cast(step, tf.float32) + 1) / tf.maximum(self._share.warmup, 1)
        return self._learning_rate * tf.minimum(rising, self._falling(self._share(step)))


class _Warmup(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Grows linearly to the learning rate, then follows a schedule from its beginning."""

    def __init__(self, schedule, learning_rate, warmup):
        self._schedule = schedule
        self._learning_rate = learning_rate
        self._warmup = warmup

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        rising = self._learning_rate * (step + 1) / self._warmup
        # Not below 0: a power of a negative progress would be NaN, even where it is not selected.
        after = tf.maximum(step - self._warmup, 0)
        scheduled = self._schedule(after) if callable(self._schedule) else self._schedule
        return tf.where(step < self._warmup, rising, scheduled)


def _moving_share(update):
    # 1 at the first update, so that the initial random weights have no influence. The decay grows
    # with the run, which suits short and long runs.
    earlier = tf.cast(update - 1, tf.float32)
    return 1 - tf.minimum(EMA_DECAY, earlier / (earlier + 10))


def _mean_share(update, epochs, updates):
    period = max(1, updates // epochs)
    first = updates - (epochs // SWA_SHARE - 1) * period
    since = update - first
    mean = 1 / tf.cast(since // period + 1, tf.float32)
    return tf.where(since <= 0, 1.0, tf.where(since % period == 0, mean, 0.0))
