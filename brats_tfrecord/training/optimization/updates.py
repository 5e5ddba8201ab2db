"""From the gradients of a batch to new weights: sum, accumulate, unscale, clip, apply, average.

Keras and Addons have wrappers for parts of this, which do not fit all optimizers or each other:
Keras's loss scaling counts a skipped update as one made, so NovoGrad would begin from a second
moment of zero; Addons' averages refuse Keras's own optimizers, freeze Ranger's step count, and
round the weights when they swap them.
"""

import contextlib

import tensorflow as tf

from brats_tfrecord.errors import InputError
from brats_tfrecord.training.optimization import optimizers, schedules

FIRST_SCALE = 2.0**15
DOUBLE_AFTER = 2000
"""Dynamic loss scaling (Micikevicius et al. 2018): halved by gradients that are not finite,
doubled after so many updates in a row whose gradients were."""


def make_updates(options, epoch_steps, strategy, variables, *, loss_scaling=False):
    """Makes what the flags ask for; call it under the strategy's scope.

    Args:
        options: `TrainOptions`.
        epoch_steps: batches an epoch.
        strategy, variables, loss_scaling: as of `Updates`.

    Returns:
        `Updates`. Batches at the very end that do not fill an update are not used.

    Raises:
        InputError: --accumulate is more than the run has batches.
    """
    batches = options.epochs * epoch_steps
    total = batches // options.accumulate
    if not total:
        raise InputError(
            f"--accumulate={options.accumulate}: the whole run has {batches} batches, too few "
            f"for one update; give at most {batches}, or more --epochs"
        )
    warmup = min(round(options.warmup_epochs * epoch_steps / options.accumulate), total - 1)
    schedule = schedules.make_schedule(options.schedule, options.learning_rate, total, warmup)
    return Updates(
        strategy,
        optimizers.make_optimizer(options.optimizer, schedule, options.decay_rate),
        variables,
        schedule=schedule,
        clip_norm=options.clip_norm,
        accumulate=options.accumulate,
        averaging=schedules.make_averaging(options.averaging, options.epochs, total),
        loss_scaling=loss_scaling,
    )


class Updates(tf.Module):
    """What turns gradients into weights, with all of its state in `tf.Variable`s.

    `tf.train.Checkpoint` keeps the optimizer with its slots, the loss scale, the gradients
    accumulated so far and the averages: a restored run goes on bit for bit. Make it under the
    strategy's scope.

    Attributes:
        optimizer: its `iterations` count the updates that were made.
        loss_scale: scalar float32 variable, or None without loss scaling.
    """

    def __init__(
        self,
        strategy,
        optimizer,
        variables,
        *,
        schedule=0.0,
        clip_norm=0.0,
        accumulate=1,
        averaging=None,
        loss_scaling=False,
    ):
        """Creates the state.

        Args:
            strategy: `tf.distribute.Strategy`.
            optimizer: from `optimizers.make_optimizer`.
            variables: float32, the trainable ones; each gets a gradient.
            schedule: what gave the optimizer its learning rate, a number or a function of the
                updates made; only `learning_rate` reads it.
            clip_norm: longest the gradient may be, over all variables together; 0 does not clip.
            accumulate: batches an update, which takes the mean of their gradients.
            averaging: from `schedules.make_averaging`, or None.
            loss_scaling: whether losses pass through `scaled`, which float16 gradients need.
        """
        super().__init__()
        self.optimizer = optimizer
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

    def scaled(self, loss):
        """The loss to differentiate, in a replica; `take` undoes the scale."""
        return loss if self.loss_scale is None else loss * self.loss_scale

    def take(self, gradients):
        """Takes in a batch's gradients and, every `accumulate` batches, updates the weights.

        Call it in a cross-replica context, inside a `tf.function`. An update whose gradients are
        not finite is skipped under loss scaling, and made otherwise.

        Args:
            gradients: what `strategy.run` returned: for each variable, the gradient of the scaled
                loss; their sum over the replicas counts.

        Returns:
            bool scalar, false if training cannot go on: the gradients of this very batch are not
            finite, and no smaller loss scale could make them so.
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
            for total, more in zip(self._sums, sums):
                extended.update(total, _add, args=(more,))
            self._batches.assign_add(1)
            full = tf.equal(self._batches.read_value() % self._accumulate, 0)
            tf.cond(full, self._update_from_sums, _nothing)
            return sound

    def learning_rate(self):
        """Of the next update, a float."""
        rate = self._schedule
        return float(rate(self.optimizer.iterations) if callable(rate) else rate)

    @contextlib.contextmanager
    def averaged(self):
        """Context in which the variables hold their averages, where there are any.

        On leaving, the trained values are back bit for bit.
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
        ready = self._strategy.run(self._ready, args=(list(sums),))
        if self.loss_scale is None:
            self._make(ready)
            return
        tf.cond(finite, lambda: self._make(ready), _nothing)
        self._rescale(finite)

    def _all_finite(self, sums):
        finite = self._strategy.run(_all_finite, args=(list(sums),))
        # Every replica holds the same sums, so the first one's verdict is everyone's.
        return self._strategy.experimental_local_results(finite)[0]

    def _ready(self, sums):
        """In a replica: the gradient of the mean loss, clipped."""
        sums = [tf.convert_to_tensor(gradient) for gradient in sums]
        factor = 1 / self._accumulate
        if self.loss_scale is not None:
            factor /= self.loss_scale
        gradients = [gradient * factor for gradient in sums]
        if self._clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm)
        return gradients

    def _make(self, gradients):
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

    def _rescale(self, finite):
        row = (self._finite_in_a_row + 1) * tf.cast(finite, tf.int64)
        doubled = tf.equal(row, DOUBLE_AFTER)
        larger = tf.where(doubled, self.loss_scale * 2, self.loss_scale)
        self.loss_scale.assign(tf.where(finite, larger, tf.maximum(self.loss_scale / 2, 1)))
        self._finite_in_a_row.assign(row % DOUBLE_AFTER)


def _all_finite(tensors):
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])


def _state(initial_value):
    return tf.Variable(initial_value, trainable=False)


def _add(total, more):
    total.assign_add(more)


def _clear(total):
    total.assign(tf.zeros_like(total))


def _move(average, variable, share):
    # A share of 1 takes the very bits.
    moved = average + share * (variable - average)
    average.assign(tf.where(share < 1, moved, variable))


def _nothing():
    return True
