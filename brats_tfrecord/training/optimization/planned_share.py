"""The share of a run's updates that is done, where their number is planned during the run."""

import tensorflow as tf

_SHARE_OF_WARMUP = 0.1
"""Largest share of the planned updates for the warm-up of the learning rate."""


class PlannedShare(tf.Module):
    """Maps the number of an update to the share of the run, from 0 to 1, linear in pieces.

    A new plan begins a new piece where the run is, so that the share neither jumps nor falls, and
    reaches 1 at the new end. All state is in `tf.Variable`s: a checkpoint that contains this object
    continues with the same plan. Create it within the strategy's scope.

    Attributes:
        warmup: updates of the warm-up, which come before the share rises; float32 variable.
    """

    def __init__(self, warmup: int) -> None:
        """Starts without a plan; the share stays at 0.

        Args:
            warmup: updates of the warm-up that were asked for.
        """
        super().__init__()
        self._asked = warmup
        self.warmup, self._first_update, self._first_share, self._end = (
            tf.Variable(value, trainable=False, dtype=tf.float32)
            for value in (warmup, warmup, 0, 2**24)
        )

    def __call__(self, update: tf.Tensor) -> tf.Tensor:
        """Returns the share before an update, float32; 0 until the warm-up is over.

        Args:
            update: number of updates before it.
        """
        length = tf.maximum(self._end - self._first_update, 1)
        done = (tf.cast(update, tf.float32) - self._first_update) / length
        return tf.clip_by_value(self._first_share + (1 - self._first_share) * done, 0.0, 1.0)

    def begin(self, updates: int) -> None:
        """Plans a run of so many updates; at most a tenth of them are warm-up."""
        self.warmup.assign(min(self._asked, int(_SHARE_OF_WARMUP * updates)))
        self._start_piece(float(self.warmup.numpy()), 0.0, updates)

    def plan(self, done: int, updates: int) -> None:
        """Plans the rest of the run anew.

        Args:
            done: updates that were applied.
            updates: updates of the whole run, at least `done`.
        """
        first = max(float(done), float(self.warmup.numpy()))
        self._start_piece(first, float(self(first).numpy()), max(updates, first))

    def _start_piece(self, first, share, end):
        for variable, value in (
            (self._first_update, first),
            (self._first_share, share),
            (self._end, end),
        ):
            variable.assign(float(value))
