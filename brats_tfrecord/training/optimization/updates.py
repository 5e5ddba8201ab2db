"""From the gradients of a batch to new weights: sum, accumulate, unscale, clip, apply, average.

Keras and Addons have wrappers for parts of this, but they do not work with all optimizers or with
each other. Keras's loss scaling counts a skipped update as applied, so NovoGrad would start from
a second moment of zero. Addons' averages reject Keras's own optimizers, freeze Ranger's step
count, and round the weights when they swap them.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from brats_tfrecord.training.optimization import optimizers
from brats_tfrecord.training.optimization.planned_share import PlannedShare

FIRST_SCALE = 2.0**15
DOUBLE_AFTER = 2000
"""Dynamic loss scaling (Micikevicius et al. 2018): the scale is halved when gradients are not
finite, and doubled after this many consecutive updates with finite gradients."""


class Updates(tf.Module):
    """Applies gradients to the weights; all of its state is in `tf.Variable`s.

    `tf.train.Checkpoint` saves the optimizer with its slots, the loss scale, the accumulated
    gradients and the averages, so a restored run continues bit for bit. Create it within the
    strategy's scope.

    Attributes:
        optimizer: its `iterations` count the applied updates.
        loss_scale: scalar float32 variable, or None without loss scaling.
        planned_share: as given.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        optimizer: Any,
        variables: Sequence[tf.Variable],
        *,
        schedule: float | Callable = 0.0,
        clip_norm: float = 0.0,
        accumulate: int = 1,
        averaging: Callable[[tf.Tensor], tf.Tensor] | None = None,
        loss_scaling: bool = False,
        planned_share: PlannedShare | None = None,
    ):
        """Creates the state.

        Args:
            strategy: the strategy whose scope this is called in.
            optimizer: from `optimizers.make_optimizer`.
            variables: float32 trainable variables; each gets a gradient.
            schedule: the optimizer's learning rate, a number or a function of the number of
                applied updates; only `learning_rate` reads it.
            clip_norm: largest norm of the gradient over all variables together; 0 does not clip.
            accumulate: batches per update, which takes the mean of their gradients.
            averaging: from `schedules.make_averaging`, or None.
            loss_scaling: whether to scale losses, which float16 gradients need.
            planned_share: the share of the run that `schedule` follows, if the number of updates
                is planned during the run. It is saved with the state.
        """
        super().__init__()
        self.optimizer, self.planned_share = optimizer, planned_share
        self._strategy = strategy
        self._variables = tuple(variables)
        self._schedule, self._averaging = schedule, averaging
        self._clip_norm, self._accumulate = clip_norm, accumulate
        optimizers.create_slots(optimizer, list(variables))
        if accumulate > 1:
            self._sums = [_state(tf.zeros_like(variable)) for variable in variables]
            self._batches = _state(tf.constant(0, tf.int64))
        if averaging:
            self._averages = [_state(variable) for variable in variables]
        self.loss_scale = _state(tf.constant(FIRST_SCALE)) if loss_scaling else None
        if loss_scaling:
            self._finite_in_a_row = _state(tf.constant(0, tf.int64))

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """Scales the loss to differentiate, in a replica; `apply_gradients` removes the scale."""
        return loss if self.loss_scale is None else loss * self.loss_scale

    def apply_gradients(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """Adds the gradients of a batch and, every `accumulate` batches, updates the weights.

        Call it in a cross-replica context inside a `tf.function`. With loss scaling, an update
        with gradients that are not finite is skipped; without, it is applied.

        Args:
            gradients: the result of `strategy.run`: for each variable, the gradient of the scaled
                loss. The gradients of the replicas are summed.

        Returns:
            bool scalar, false if training cannot continue: the gradients of this batch are not
            finite, and a smaller loss scale cannot help.
        """
        extended = self._strategy.extended
        with self._strategy.scope():
            sums = extended.batch_reduce_to(
                tf.distribute.ReduceOp.SUM, list(zip(gradients, self._variables))
            )
            finite = self._all_finite(sums)
            sound = finite if self.loss_scale is None else finite | (self.loss_scale > 1)
            if self._accumulate == 1:
                self._update(sums, finite)
                return sound
            for total, summand in zip(self._sums, sums):
                extended.update(total, _add, args=(summand,))
            self._batches.assign_add(1)
            full = tf.equal(self._batches.read_value() % self._accumulate, 0)
            tf.cond(full, self._update_from_sums, _do_nothing)
            return sound

    @property
    def applied(self) -> int:
        """Number of updates that were applied; waits for the devices."""
        return int(self.optimizer.iterations.numpy())

    def learning_rate(self) -> float:
        """Returns the learning rate of the update that the last batch is part of.

        Before the first batch, it is that of the first update.
        """
        rate, updates = self._schedule, self.applied
        if not callable(rate):
            return float(rate)
        is_pending = self._accumulate > 1 and int(self._batches.numpy()) % self._accumulate
        return float(rate(updates if is_pending else max(updates - 1, 0)))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Context in which the variables hold their averages, if the run averages.

        The trained values are restored on leaving, bit for bit.
        """
        if not self._averaging:
            yield
            return
        trained = [variable.numpy() for variable in self._variables]
        try:
            self._assign(average.numpy() for average in self._averages)
            yield
        finally:
            self._assign(trained)

    def _assign(self, values):
        for variable, value in zip(self._variables, values):
            variable.assign(value)

    def _update_from_sums(self):
        self._update(self._sums, self._all_finite(self._sums))
        for total in self._sums:
            self._strategy.extended.update(total, _clear)
        return True

    def _update(self, sums, finite):
        gradients = self._strategy.run(self._mean_gradients, args=(list(sums),))
        if self.loss_scale is None:
            self._apply_and_average(gradients)
            return
        tf.cond(finite, lambda: self._apply_and_average(gradients), _do_nothing)
        self._adapt_scale(self.loss_scale, finite)

    def _all_finite(self, sums):
        finite = self._strategy.run(_all_finite, args=(list(sums),))
        # Every replica holds the same sums, so the first one's result is valid for all.
        return self._strategy.experimental_local_results(finite)[0]

    def _mean_gradients(self, sums):
        """The gradient of the unscaled mean loss, clipped; called in a replica."""
        sums = [tf.convert_to_tensor(gradient) for gradient in sums]
        factor = 1 / self._accumulate
        if self.loss_scale is not None:
            factor /= self.loss_scale
        gradients = [gradient * factor for gradient in sums]
        if self._clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm)
        return gradients

    def _apply_and_average(self, gradients):
        self._strategy.run(self._apply, args=(gradients,))
        if self._averaging:
            share = self._averaging(tf.identity(self.optimizer.iterations))
            for average, variable in zip(self._averages, self._variables):
                self._strategy.extended.update(average, _move, args=(variable, share))
        return True

    def _apply(self, gradients):
        self.optimizer.apply_gradients(
            zip(gradients, self._variables), experimental_aggregate_gradients=False
        )

    def _adapt_scale(self, scale, finite):
        row = (self._finite_in_a_row + 1) * tf.cast(finite, tf.int64)
        doubled = tf.equal(row, DOUBLE_AFTER)
        larger = tf.where(doubled, scale * 2, scale)
        scale.assign(tf.where(finite, larger, tf.maximum(scale / 2, 1)))
        self._finite_in_a_row.assign(row % DOUBLE_AFTER)


def _all_finite(tensors):
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])


def _state(initial_value):
    return tf.Variable(initial_value, trainable=False)


def _add(total, summand):
    total.assign_add(summand)


def _clear(total):
    total.assign(tf.zeros_like(total))


def _move(average, variable, share):
    # With a share of 1 the average equals the variable exactly, without rounding.
    moved = average + share * (variable - average)
    average.assign(tf.where(share < 1, moved, variable))


def _do_nothing():
    return True  # the other branch of tf.cond returns a bool, too
