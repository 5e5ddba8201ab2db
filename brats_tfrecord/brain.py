"""The brain channel: a further input channel, 1 inside the brain and 0 outside.

With it a network tells the background from dark tissue, which have similar values in z-scored
images (Futrega et al. 2021, the winner of BraTS 2021's validation phase).

It is a function of the preprocessed image: a voxel belongs to the brain if any channel differs
there from its background, which is the fourth smallest of the channel's values in the eight corners
of the image. So neither records nor signatures hold the channel. The exported graph computes it
from the whole image, before windows are cut. Training sees patches only: there it is marked in the
packed mask while a patch is read, so that it moves with the labels, and unpacked on the device.
Images must be skull-stripped; otherwise the channel is 1 nearly everywhere.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
import tensorflow as tf

MARK = 0x80
"""Bit that is set inside the brain in the packed masks of patches; classes have lower ones."""

BLOCK = 2**17
"""Voxels that are compared at once: what is computed from them stays in the processor's cache."""


def corners(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Returns the voxels (x, y, z) in the corners of an image: 8, or fewer if an extent is 1."""
    return list(product(*(sorted({0, extent - 1}) for extent in shape)))


def background_of_corners(values: np.ndarray) -> np.ndarray:
    """Selects the background of each channel, as `background` does: [N, C] -> [C]."""
    return np.sort(values, axis=0)[(len(values) - 1) // 2]


def mark(image: np.ndarray, mask: np.ndarray, background: np.ndarray) -> None:
    """Sets `MARK` in a packed mask where the image shows brain.

    Args:
        image: float16 or float32 [X, Y, Z, C], any part of a preprocessed image; no NaN.
        mask: uint8 [X, Y, Z], changed in place.
        background: [C] of the whole image, in the same dtype.
    """
    unsigned = f"u{image.itemsize}"
    compared = np.tile(_compared_bits(background), mask.shape[2])
    row = np.tile(background.view(unsigned), mask.shape[2]) & compared
    planes = max(1, BLOCK // max(1, mask[0].size))
    for first in range(0, len(mask), planes):
        block = mask[first : first + planes]
        bits = image[first : first + planes].view(unsigned).reshape(-1, len(row))
        inside = _any_channel((bits & compared) != row, len(background))
        block |= inside.reshape(block.shape) * np.uint8(MARK)


def is_marked(mask: tf.Tensor) -> tf.Tensor:
    """Returns where `MARK` is set: uint8 [...] -> bool [...]."""
    return mask >= tf.constant(MARK, mask.dtype)


def background(image: tf.Tensor) -> tf.Tensor:
    """Selects the background of each channel: the fourth smallest of the eight corners.

    It is found if brain reaches into up to four corners, or smaller values than the background,
    which resampling leaves around the brain, into up to three. An image with an extent of 1 has
    fewer corners; of N values, the one with index (N - 1) // 2 is taken.

    Args:
        image: float32 [B, X, Y, Z, C].

    Returns:
        float32 [B, 1, 1, 1, C].
    """
    values = image[:, :: _last(image, 1), :: _last(image, 2), :: _last(image, 3)]
    values = tf.reshape(values, [tf.shape(image)[0], -1, image.shape[-1]])
    values = tf.transpose(values, [0, 2, 1])
    count = tf.shape(values)[-1]
    return tf.sort(values)[..., (count - 1) // 2][:, None, None, None]


def find(image: tf.Tensor) -> tf.Tensor:
    """Returns where whole preprocessed images show brain: [B, X, Y, Z, C] -> bool [B, X, Y, Z]."""
    return tf.reduce_any(image != background(image), axis=-1)


def append(image: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
    """Appends the brain channel: float32 [B, X, Y, Z, C], bool [B, X, Y, Z] -> [..., C + 1]."""
    return tf.concat([image, tf.cast(inside, image.dtype)[..., None]], axis=-1)


def _compared_bits(background):
    """The bits that decide whether a voxel equals the background, unsigned [C].

    All of them, but not the sign where the background is 0, because zeros of both signs are equal.
    NumPy compares integers several times as fast as float16.
    """
    bits = np.full(len(background), -1, f"i{background.itemsize}").view(f"u{background.itemsize}")
    bits[background == 0] >>= 1
    return bits


def _any_channel(differs, channels):
    """Whether any of the channels, which lie side by side, is true: bool [..., C] -> uint8 [N]."""
    flat = differs.reshape(-1).view(np.uint8)
    count = len(flat) - channels + 1
    # Neighbours are joined everywhere, because NumPy is several times as fast without gaps.
    joined = flat[:count].copy()
    for channel in range(1, channels):
        joined |= flat[channel : channel + count]
    return joined[::channels]


def _last(image, axis):
    """Index of the last voxel along an axis, at least 1: a step that meets both ends."""
    return tf.maximum(tf.shape(image)[axis] - 1, 1)
