"""What changes as a run goes on: the learning rate, and the weight of newer states in an average.

Both are pure functions of the number of updates, so a resumed run needs nothing but that number.
"""

import tensorflow as tf

POLYNOMIAL_POWER = 0.9
"""Exponent of the polynomial schedule, nnU-Net's (Isensee et al. 2021)."""

EMA_DECAY = 0.999
"""Share of the past in a moving average, once a run is long enough for it."""

SWA_SHARE = 4
"""Stochastic weight averaging takes the last epochs // SWA_SHARE epochs."""


def make_schedule(name, learning_rate, updates, warmup=0):
    """The course of the learning rate over a run.

    Args:
        name: "constant"; "cosine" (Loshchilov and Hutter 2017, without restarts) or "polynomial"
            (power 0.9), which end at 0.
        learning_rate: at the top, after the warm-up.
        updates: of the whole run with its warm-up, more than `warmup`.
        warmup: first updates, over which it grows linearly (Goyal et al. 2017); the k-th of them
            takes k / warmup of the learning rate. The schedule itself follows.

    Returns:
        What `optimizers.make_optimizer` takes: a number if it never changes.
    """
    left = updates - warmup
    if name == "cosine":
        course = tf.keras.optimizers.schedules.CosineDecay(learning_rate, left)
    elif name == "polynomial":
        course = tf.keras.optimizers.schedules.PolynomialDecay(
            learning_rate, left, end_learning_rate=0.0, power=POLYNOMIAL_POWER
        )
    elif not warmup:
        return learning_rate
    else:
        course = None
    return _Warmed(course, learning_rate, warmup) if warmup else course


def make_averaging(name, epochs, updates):
    """How much of the newest weights enters the average at each update.

    The average is `average += share * (weights - average)`.

    Args:
        name: "none"; "ema", the exponential moving average (Polyak and Juditsky 1992), whose
            memory is about a tenth of the updates so far and at most 1000 updates; or "swa",
            stochastic weight averaging (Izmailov et al. 2018): the equal mean of one state an
            epoch over the last quarter of the run, before that the newest weights themselves.
        epochs: of the run; for "swa" at least `2 * SWA_SHARE`.
        updates: of the whole run.

    Returns:
        None for "none", else function (int64 number of the update, from 1) -> float32 share.
    """
    if name == "none":
        return None
    if name == "ema":
        return _moving_share
    return lambda update: _mean_share(update, epochs, updates)


class _Warmed(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise from almost nothing, then the course, which begins where the rise ends."""

    def __init__(self, course, learning_rate, warmup):
        self._course = course
        self._learning_rate = learning_rate
        self._warmup = warmup

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        rising = self._learning_rate * (step + 1) / self._warmup
        # Not below 0: a power of a progress below 0 would be NaN, even if it is not chosen.
        after = tf.maximum(step - self._warmup, 0)
        course = self._course(after) if self._course else self._learning_rate
        return tf.where(step < self._warmup, rising, course)


def _moving_share(update):
    # 1 at the first update, so that the random weights before it leave no trace; a decay that
    # grows with the run serves short and long runs alike.
    done = tf.cast(update - 1, tf.float32)
    return 1 - tf.minimum(EMA_DECAY, done / (done + 10))


def _mean_share(update, epochs, updates):
    period = max(1, updates // epochs)
    first = updates - (epochs // SWA_SHARE - 1) * period
    since = update - first
    mean = 1 / tf.cast(since // period + 1, tf.float32)
    return tf.where(since <= 0, 1.0, tf.where(since % period == 0, mean, 0.0))
