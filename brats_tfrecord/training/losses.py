"""Losses from logits, one value an example, summed in float32.

Values by example, not batch means: the step divides their sum by the global batch size, so the
gradient is the same however many replicas share the batch.
"""

import tensorflow as tf

DICE_SMOOTHING_VOXELS = 1.0
"""Added above and below the fraction: a class absent from truth and prediction scores 1."""


def per_example_loss(name):
    """Returns the loss function called `name`.

    Args:
        name: "cross_entropy" or "dice_cross_entropy".

    Returns:
        function (truth one-hot [B, X, Y, Z, K], logits [B, X, Y, Z, K]) -> float32 [B].
    """
    return _LOSSES[name]


def cross_entropy(truth, logits):
    """Categorical cross-entropy in nats, mean over voxels: [B, X, Y, Z, K] twice -> float32 [B]."""
    truth, logits = tf.cast(truth, tf.float32), tf.cast(logits, tf.float32)
    by_voxel = tf.nn.softmax_cross_entropy_with_logits(truth, logits)
    return tf.reduce_mean(by_voxel, axis=(1, 2, 3))


def dice_loss(truth, logits):
    """One minus soft Dice (Drozdzal et al. 2016), mean over the tumour classes.

    Background (class 0) is left out: it would score near 1 whatever the network does. A class
    that is absent from the truth costs next to nothing until it is predicted, then nearly 1.

    Args:
        truth: one-hot [B, X, Y, Z, K].
        logits: [B, X, Y, Z, K].

    Returns:
        float32 [B], in [0, 1].
    """
    truth, logits = tf.cast(truth, tf.float32), tf.cast(logits, tf.float32)
    truth, probabilities = truth[..., 1:], tf.nn.softmax(logits)[..., 1:]
    voxels = (1, 2, 3)
    common = tf.reduce_sum(truth * probabilities, voxels)
    sizes = tf.reduce_sum(truth, voxels) + tf.reduce_sum(probabilities, voxels)
    dice = (2 * common + DICE_SMOOTHING_VOXELS) / (sizes + DICE_SMOOTHING_VOXELS)
    return 1 - tf.reduce_mean(dice, axis=-1)


def dice_cross_entropy(truth, logits):
    """Sum of `dice_loss` and `cross_entropy`, as in nnU-Net (Isensee et al. 2021)."""
    return dice_loss(truth, logits) + cross_entropy(truth, logits)


_LOSSES = {"cross_entropy": cross_entropy, "dice_cross_entropy": dice_cross_entropy}
