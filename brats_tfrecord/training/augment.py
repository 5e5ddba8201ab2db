"""Augmentation of one example: parameters are drawn first, then applied deterministically.

The draw is a pure function of its seed, so any example of any epoch can be replayed.
"""

from typing import NamedTuple

import tensorflow as tf

from brats_tfrecord import spec

BACKGROUND_BIT = 1 << spec.BACKGROUND
"""What a packed mask holds where there is no tumour; every tumour class sets a higher bit."""


class Augmentation(NamedTuple):
    """What happens to one example.

    Attributes:
        origin: int32 [3], first voxel of the patch in the crop.
        flips: bool [3], whether axis X, Y, Z is reversed.
    """

    origin: tf.Tensor
    flips: tf.Tensor


def draw(seed, packed, patch_shape, foreground_fraction):
    """Draws an `Augmentation`; every flip is equally likely.

    A share of the patches is centred on a tumour voxel, each as likely as the other (moved into
    the crop where it would leave it); the rest lie anywhere in the crop. Tumour fills a few
    hundredths of a crop: patches that miss it teach little.

    Args:
        seed: int [2]; equal seeds draw equal parameters.
        packed: uint8 [X, Y, Z], the packed one-hot mask.
        patch_shape: (X, Y, Z) of the patch, nowhere larger than the mask.
        foreground_fraction: the share centred on tumour, 0 to 1; a mask without tumour has none.
    """
    free = tf.constant([full - part for full, part in zip(packed.shape, patch_shape)], tf.int32)
    chance, flips, place = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
    centred = tf.random.stateless_uniform([], chance) < foreground_fraction
    origin = tf.cond(
        centred & tf.reduce_any(packed > BACKGROUND_BIT),
        lambda: _around_tumour(place, packed, patch_shape, free),
        lambda: _uniform(place, free + 1),
    )
    return Augmentation(origin, tf.random.stateless_uniform([3], flips) < 0.5)


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


def _around_tumour(seed, packed, patch_shape, free):
    """Origin of a patch centred on a tumour voxel, as far as the crop allows."""
    voxels = tf.where(packed > BACKGROUND_BIT)
    voxel = tf.cast(voxels[_uniform(seed, tf.shape(voxels)[0])], tf.int32)
    return tf.clip_by_value(voxel - [part // 2 for part in patch_shape], 0, free)


def _uniform(seed, counts):
    """An index below each of `counts`, all equally likely; int32 of their shape."""
    counts = tf.convert_to_tensor(counts)
    drawn = tf.random.stateless_uniform(tf.shape(counts), seed)
    # The product may round up to `counts` itself.
    return tf.minimum(tf.cast(drawn * tf.cast(counts, tf.float32), tf.int32), counts - 1)
