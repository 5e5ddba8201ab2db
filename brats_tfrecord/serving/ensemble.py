"""Several answers to one image, averaged: of an ensemble's networks, and over flips."""

import tensorflow as tf

FLIPS = 8
"""Ways to flip three axes, none of them flipped included."""


class Ensemble:
    """Networks as one: the mean of their probabilities (as BraTS' winners average their folds).

    Attributes:
        output_shape: of each network, (B, X, Y, Z, K).
    """

    def __init__(self, networks):
        """Takes at least one network, float32 [B, X, Y, Z, C] -> float32 [B, X, Y, Z, K]."""
        self._networks = tuple(networks)
        self.output_shape = self._networks[0].output_shape

    def __call__(self, image):
        """The mean of the networks' outputs, same axes and dtype as one network's."""
        first, *others = self._networks
        total = first(image)
        for network in others:
            # One after the other: side by side, each would hold its activations.
            with tf.control_dependencies([total]):
                total += network(tf.identity(image))
        return total / len(self._networks)


def over_flips(predict, image, channels):
    """The mean over the eight flips of the image's spatial axes, each answer flipped back.

    Test-time augmentation as in nnU-Net (Isensee et al. 2021). One flip at a time, so that it
    takes little more memory than one prediction, and eight times its time.

    Args:
        predict: float32 [B, X, Y, Z, C] -> float32 [B, X, Y, Z, K].
        image: float32 [B, X, Y, Z, C].
        channels: K.

    Returns:
        float32 [B, X, Y, Z, K].
    """
    shape = tf.TensorShape([*image.shape[:4], channels])

    def add_flip(number, total):
        axes = 1 + tf.where(tf.bitwise.bitwise_and(number, [1, 2, 4]) > 0)[:, 0]
        flipped = tf.ensure_shape(tf.reverse(image, axes), image.shape)
        return number + 1, tf.ensure_shape(total + tf.reverse(predict(flipped), axes), shape)

    nothing = tf.zeros(tf.concat([tf.shape(image)[:4], [channels]], 0))
    _, total = tf.while_loop(
        lambda number, _: number < FLIPS,
        add_flip,
        (0, tf.ensure_shape(nothing, shape)),
        shape_invariants=(tf.TensorShape([]), shape),
        parallel_iterations=1,
    )
    return total / FLIPS
