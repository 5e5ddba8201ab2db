"""Optimizers by name: the one door to TensorFlow Addons, which opens only when asked."""

import warnings

import tensorflow as tf

SGD_MOMENTUM = 0.99
"""nnU-Net's (Isensee et al. 2021)."""


def make_optimizer(name, learning_rate=1e-3, weight_decay=0.0):
    """Makes the optimizer called `name`.

    Save its state with `tf.train.Checkpoint`, after `create_slots`; a reload through `.keras`
    files resets what comes from Addons.

    Args:
        name: "adam" (Kingma and Ba 2015), "adamw" (Loshchilov and Hutter 2019) or "sgd" (Nesterov
            momentum 0.99), Keras's; "lamb" (You et al. 2020), "ranger" (RectifiedAdam, Liu et al.
            2020, under Lookahead, Zhang et al. 2019) or "novograd" (Ginsburg et al. 2019),
            Addons'.
        learning_rate: step size, or a schedule of `schedules.make_schedule`.
        weight_decay: each update also takes learning rate x this off every weight ("lamb" scales
            it by layer, "novograd" carries it in its momentum). 0 for "adam".

    Returns:
        An optimizer, legacy where it is Addons': `apply_gradients(…,
        experimental_aggregate_gradients=False)` takes summed gradients in a replica context.
    """
    return _MAKERS[name](learning_rate, weight_decay)


def create_slots(optimizer, variables):
    """Creates the state of `optimizer` for `variables`, so that a restore finds it in place."""
    if isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer):
        # Legacy optimizers have no public name for it, and create slots at the first step: too
        # late for NovoGrad's scalars, and a checkpoint could not be checked when it is read.
        optimizer._create_all_weights(variables)
    else:
        optimizer.build(variables)


def _adam(learning_rate, weight_decay):
    return _Adam(learning_rate)


def _adamw(learning_rate, weight_decay):
    return tf.keras.optimizers.AdamW(learning_rate, weight_decay)


def _sgd(learning_rate, weight_decay):
    return tf.keras.optimizers.SGD(
        learning_rate, SGD_MOMENTUM, nesterov=True, weight_decay=weight_decay or None
    )


def _lamb(learning_rate, weight_decay):
    return _addons().LAMB(learning_rate, weight_decay=weight_decay)


def _ranger(learning_rate, weight_decay):
    return _addons().Lookahead(_addons().RectifiedAdam(learning_rate, weight_decay=weight_decay))


def _novograd(learning_rate, weight_decay):
    return _addons().NovoGrad(learning_rate, weight_decay=weight_decay)


def _addons():
    with warnings.catch_warnings():
        # Its end-of-life notice: nothing a user could act on.
        warnings.simplefilter("ignore")
        import tensorflow_addons
    return tensorflow_addons.optimizers


class _Adam(tf.keras.optimizers.Adam):
    """Keras's own, each update in one operation that reads and writes once."""

    def update_step(self, gradient, variable):
        step = tf.cast(self.iterations + 1, variable.dtype)
        place = self._index_dict[self._var_key(variable)]
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[place].handle,
            v=self._velocities[place].handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=tf.cast(self.learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


_MAKERS = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
    "lamb": _lamb,
    "ranger": _ranger,
    "novograd": _novograd,
}
