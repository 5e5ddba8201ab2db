"""Augmentation of one example: parameters are drawn first, then applied deterministically.

The draw is a pure function of its seed, so any example of any epoch can be replayed.
"""

from typing import NamedTuple

import tensorflow as tf


class Augmentation(NamedTuple):
    """What happens to one example.

    Attributes:
        origin: int32 [3], first voxel of the patch in the crop.
        flips: bool [3], whether axis X, Y, Z is reversed.
    """

    origin: tf.Tensor
    flips: tf.Tensor


def draw(seed, shape, patch_shape):
    """Draws an `Augmentation`: every patch within the crop and every flip is equally likely.

    Args:
        seed: int [2]; equal seeds draw equal parameters.
        shape: (X, Y, Z) of the crop.
        patch_shape: (X, Y, Z) of the patch, nowhere larger.
    """
    free = tf.constant([full - part + 1 for full, part in zip(shape, patch_shape)])
    seeds = tf.random.experimental.stateless_split(seed, 2)
    # Below 2^24 positions the product is exact enough; `minimum` guards the rounding of 1 - eps.
    position = tf.random.stateless_uniform([3], seeds[0])
    origin = tf.minimum(tf.cast(position * tf.cast(free, tf.float32), tf.int32), free - 1)
    flips = tf.random.stateless_uniform([3], seeds[1]) < 0.5
    return Augmentation(origin, flips)


def cut(array, augmentation, patch_shape):
    """The patch of `array` [X, Y, Z, ...] at the drawn origin."""
    rest = array.shape.rank - 3
    begin = tf.concat([augmentation.origin, tf.zeros([rest], tf.int32)], axis=0)
    patch = tf.slice(array, begin, [*patch_shape, *[-1] * rest])
    return tf.ensure_shape(patch, [*patch_shape, *array.shape[3:]])


def flip(array, augmentation):
    """Reverses the drawn axes of `array` [X, Y, Z, ...]."""
    for axis in range(3):
        array = tf.cond(
            augmentation.flips[axis],
            lambda array=array, axis=axis: tf.reverse(array, [axis]),
            lambda array=array: array,
        )
    return array
