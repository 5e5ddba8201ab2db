"""Optimizers by name."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from brats_tfrecord.training.optimization import addons

SGD_MOMENTUM = 0.99
"""As in nnU-Net (Isensee et al. 2021)."""

_WITHOUT_XLA = {"jit_compile": False}
"""Keras compiles updates by itself where it sees a GPU, even an unused one: one XLA function for
every variable and replica."""


def make_optimizer(name: str, learning_rate: Any = 1e-3, weight_decay: float = 0.0) -> Any:
    """Makes the optimizer called `name`.

    Save its state with `tf.train.Checkpoint`, after `create_slots`; a reload through `.keras`
    files resets the state of Addons' optimizers.

    Args:
        name: "adam" (Kingma and Ba 2015), "adamw" (Loshchilov and Hutter 2019) or "sgd" (Nesterov
            momentum 0.99), from Keras; "lamb" (You et al. 2020); "ranger" (RectifiedAdam, Liu et
            al. 2020, under Lookahead, Zhang et al. 2019) or "novograd" (Ginsburg et al. 2019),
            from Addons.
        learning_rate: step size, or a schedule from `schedules.make_schedule`.
        weight_decay: each update also subtracts learning rate x this x weight from every weight
            that `decays` ("lamb" scales it by layer, "novograd" includes it in its momentum).
            "adam" ignores it.

    Returns:
        A Keras optimizer, a legacy one from Addons: `apply_gradients(…,
        experimental_aggregate_gradients=False)` takes summed gradients in a replica context.

    Raises:
        ModuleNotFoundError: Addons are needed and not installed (`addons.require_for`).
    """
    return _MAKERS[name](learning_rate, weight_decay)


def create_slots(optimizer: Any, variables: Sequence[tf.Variable]) -> None:
    """Creates the state of `optimizer` for `variables`, which a checkpoint is restored into.

    Call it before the first update. Variables that do not `decays` are excluded from the decay.
    """
    if isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer):
        # Legacy optimizers have no public method for it and create slots at the first step: too
        # late for NovoGrad's scalars, and a checkpoint could not be checked when it is read.
        optimizer._create_all_weights(variables)
    else:
        optimizer.exclude_from_weight_decay([each for each in variables if not decays(each)])
        optimizer.build(variables)


def decays(variable: tf.Variable) -> bool:
    """Tells whether weight decay applies to a variable.

    Kernels have two axes or more. Biases, and the scale and shift of norm layers, have one: they
    are few and overfit little (Goodfellow et al. 2016, section 7.1), and a scale belongs at 1.
    """
    return len(variable.shape) > 1


def _adam(learning_rate, weight_decay):
    return _Adam(learning_rate, **_WITHOUT_XLA)


def _adamw(learning_rate, weight_decay):
    return tf.keras.optimizers.AdamW(learning_rate, weight_decay, **_WITHOUT_XLA)


def _sgd(learning_rate, weight_decay):
    return tf.keras.optimizers.SGD(
        learning_rate,
        SGD_MOMENTUM,
        nesterov=True,
        weight_decay=weight_decay or None,
        **_WITHOUT_XLA,
    )


def _lamb(learning_rate, weight_decay):
    return _Lamb(learning_rate, weight_decay)


def _ranger(learning_rate, weight_decay):
    adam = _sparing(addons.load_optimizers().RectifiedAdam)(
        learning_rate, weight_decay=weight_decay
    )
    return addons.load_optimizers().Lookahead(adam)


def _novograd(learning_rate, weight_decay):
    return _sparing(addons.load_optimizers().NovoGrad)(learning_rate, weight_decay=weight_decay)


def _sparing(addons_class: Any) -> Any:
    """Makes a subclass of an Addons optimizer whose weight decay spares what does not `decays`.

    RectifiedAdam and NovoGrad cannot exclude variables.
    """

    class Sparing(addons_class):
        _spares = False

        def _resource_apply_dense(self, grad, var, apply_state=None):
            if decays(var):
                return super()._resource_apply_dense(grad, var, apply_state)
            self._spares = True
            try:
                # Without `apply_state`, all coefficients are asked for again.
                return super()._resource_apply_dense(grad, var)
            finally:
                self._spares = False

        def _get_hyper(self, name, dtype=None):
            value = super()._get_hyper(name, dtype)
            return tf.zeros_like(value) if self._spares and name == "weight_decay" else value

    return Sparing


class _Adam(tf.keras.optimizers.Adam):
    """Keras's Adam with each update as one op that reads and writes every value once.

    With Keras's own, a bfloat16 training step with 64x64x64 voxels on two CPU cores takes 1.02
    times as long in unet and 1.09 times in unet_nn.
    """

    def update_step(self, gradient, variable):
        step = tf.cast(self.iterations + 1, variable.dtype)
        index = self._index_dict[self._var_key(variable)]
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=tf.cast(self.learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class _Lamb(tf.keras.optimizers.Optimizer):
    """Layerwise adaptive steps for large batches (You et al. 2020, algorithm 2).

    Keras 3 has one, but it sums the gradients of the replicas itself, and its weight decay does
    not change the length of a step.
    """

    _beta_1, _beta_2, _epsilon = 0.9, 0.999, 1e-6

    def __init__(self, learning_rate, weight_decay):
        super().__init__(name="Lamb", **_WITHOUT_XLA)
        self._learning_rate = self._build_learning_rate(learning_rate)
        # Not `weight_decay`, with which Keras would shrink the weights before the step.
        self._decay = weight_decay

    def build(self, variables):
        super().build(variables)
        if not hasattr(self, "_momentums"):
            self._momentums = [self._slot(variable, "m") for variable in variables]
            self._velocities = [self._slot(variable, "v") for variable in variables]

    def _slot(self, variable, name):
        return self.add_variable_from_reference(model_variable=variable, variable_name=name)

    def update_step(self, gradient, variable):
        index = self._index_dict[self._var_key(variable)]
        momentum, velocity = self._momentums[index], self._velocities[index]
        momentum.assign_add((gradient - momentum) * (1 - self._beta_1))
        velocity.assign_add((tf.square(gradient) - velocity) * (1 - self._beta_2))
        step = tf.cast(self.iterations + 1, variable.dtype)
        mean = momentum / (1 - self._beta_1**step)
        deviation = tf.sqrt(velocity / (1 - self._beta_2**step))
        update = mean / (deviation + self._epsilon)
        if self._use_weight_decay(variable):
            update += self._decay * variable
        # 1 for a variable or an update of zeros.
        ratio = tf.math.divide_no_nan(tf.norm(variable), tf.norm(update))
        ratio = tf.where(ratio > 0, ratio, 1)
        variable.assign_sub(tf.cast(self.learning_rate, variable.dtype) * ratio * update)


_MAKERS = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
    "lamb": _lamb,
    "ranger": _ranger,
    "novograd": _novograd,
}
