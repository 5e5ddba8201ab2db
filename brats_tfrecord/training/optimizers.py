"""Optimizers by name: the one door to TensorFlow Addons, which opens only when asked."""

import warnings

import tensorflow as tf


def make_optimizer(name, learning_rate=1e-3, *, loss_scaling=False):
    """Makes the optimizer called `name`.

    Save its state with `tf.train.Checkpoint`; a reload through `.keras` files resets LAMB.

    Args:
        name: "adam" (Kingma and Ba 2015, Keras's) or "lamb" (You et al. 2020, Addons').
        learning_rate: step size, or a schedule of `make_schedule`.
        loss_scaling: wraps it into dynamic loss scaling, which float16 gradients need. Then
            losses pass through `get_scaled_loss` and gradients through
            `get_unscaled_gradients`.

    Returns:
        An optimizer for `apply_gradients`, inside a replica or outside.
    """
    optimizer = _MAKERS[name](learning_rate)
    if loss_scaling:
        optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer


def make_schedule(name, learning_rate, steps):
    """The course of the learning rate over a run.

    Args:
        name: "constant", or "cosine" (Loshchilov and Hutter 2017, without restarts).
        learning_rate: at the first step.
        steps: of the whole run; cosine reaches 0 there.

    Returns:
        What `make_optimizer` takes.
    """
    if name == "cosine":
        return tf.keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    return learning_rate


def create_slots(optimizer, variables):
    """Creates the state of `optimizer` for `variables`, so that a restore finds it in place."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner, tf.keras.optimizers.legacy.Optimizer):
        # Legacy optimizers (Addons' are) create slots at the first step and have no public way
        # to do it earlier. Checkpoint restores them when they appear.
        return
    optimizer.build(variables)


def _adam(learning_rate):
    return tf.keras.optimizers.Adam(learning_rate)


def _lamb(learning_rate):
    with warnings.catch_warnings():
        # Its end-of-life notice: nothing a user could act on.
        warnings.simplefilter("ignore")
        import tensorflow_addons
    return tensorflow_addons.optimizers.LAMB(learning_rate)


_MAKERS = {"adam": _adam, "lamb": _lamb}
