"""What a network sees at once: the whole image, or overlapping windows of its training patch.

Instance norm takes its mean and deviation over whatever a network is given. A network with such
layers is wrong on images of other extents than those it was trained on, so it predicts in windows
of the training patch (Isensee et al. 2021). Validation, export and every prediction use the same
`Piece`, which is decided at training and written in the model card.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from brats_tfrecord import brain
from brats_tfrecord.tf_padding import zero_pad

WHOLE_VOXELS = 192**3
"""Images of up to this size are predicted in one piece: about 3 GB of activations (U-Net)."""

WINDOW = 128
"""Edge in voxels of the windows of networks that can predict images of any extents."""

OVERLAP = 0.5
"""Smallest overlap of neighbouring windows, as a fraction of their extent."""

SIGMA = 0.125
"""Standard deviation of a window's Gaussian weight, as a fraction of its extent (Isensee et al.
2021)."""


@dataclass(frozen=True)
class Piece:
    """What a network sees at once.

    Attributes:
        shape: (X, Y, Z) extents of the windows in voxels. A window is smaller where the image is.
        stride: stride of the network; what it is given is padded to multiples of it.
        whole_voxels: images of up to this many voxels are predicted in one piece, larger ones in
            windows. 0: always in windows.

    Raises:
        ValueError: at construction, if a field has an invalid value.
    """

    shape: tuple[int, int, int]
    stride: int
    whole_voxels: int = 0

    def __post_init__(self) -> None:
        valid = {
            "shape": len(self.shape) == 3 and all(_is_count(extent, 1) for extent in self.shape),
            "stride": _is_count(self.stride, 1),
            "whole_voxels": _is_count(self.whole_voxels, 0),
        }
        for name, is_valid in valid.items():
            if not is_valid:
                raise ValueError(f"piece {name} is {getattr(self, name)!r}")

    @classmethod
    def of_network(cls, takes_statistics: bool, stride: int, patch_shape: Sequence[int]) -> Piece:
        """Decides what a network sees at once, from the patches that it was trained on.

        Args:
            takes_statistics: whether layers of the network take statistics over their input, as
                instance norm does.
            stride: stride of the network in voxels.
            patch_shape: (X, Y, Z) of the training patches.

        Returns:
            Windows of the training patch if the network takes statistics; otherwise one piece up
            to `WHOLE_VOXELS`, and windows of `WINDOW` voxels, rounded up to the stride, above.
        """
        if takes_statistics:
            x, y, z = patch_shape
            return cls((x, y, z), stride)
        edge = -(-WINDOW // stride) * stride
        return cls((edge, edge, edge), stride, WHOLE_VOXELS)

    def is_whole(self, shape: Sequence[int]) -> bool:
        """Returns whether an image of (X, Y, Z) voxels is predicted in one piece."""
        return math.prod(shape) <= self.whole_voxels

    @property
    def alignment(self) -> int:
        """Number of voxels by which the recipe's window is extended to cover the brain.

        A network that sees a whole image pools the voxels of the window in the same groups as in
        training if the window is extended by multiples of the stride. Windows lie anywhere.
        """
        return self.stride if self.whole_voxels else 1

    def to_json(self) -> dict[str, Any]:
        """Returns the piece as a dict of JSON types, the inverse of `from_json`."""
        return {**dataclasses.asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Piece:
        """Makes a piece from the dict of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: a field is missing or has an invalid value.
        """
        x, y, z = value["shape"]
        return cls((x, y, z), value["stride"], value["whole_voxels"])


def predict(network: Callable, image: tf.Tensor, channels: int, piece: Piece) -> tf.Tensor:
    """Runs a network on images of any extents, in one piece or in windows.

    Args:
        network: function float32 [B, x, y, z, C] -> float32 [B, x, y, z, K] for extents that are
            multiples of the stride.
        image: float32 [B, X, Y, Z, C].
        channels: K.
        piece: what the network sees at once.

    Returns:
        float32 [B, X, Y, Z, K].
    """
    if not piece.whole_voxels:
        return predict_windows(network, image, channels, piece)
    voxels = tf.reduce_prod(tf.cast(tf.shape(image)[1:4], tf.int64))
    return tf.cond(
        voxels <= piece.whole_voxels,
        lambda: predict_whole(network, image, piece.stride),
        lambda: predict_windows(network, image, channels, piece),
    )


def predict_whole(network: Callable, image: tf.Tensor, stride: int) -> tf.Tensor:
    """Predicts an image in one piece: pads it to the stride, then crops the output.

    Args, Returns:
        As in `predict`.
    """
    extents = tf.shape(image)[1:4]
    return network(pad_to_stride(image, stride))[:, : extents[0], : extents[1], : extents[2]]


def pad_to_stride(image: tf.Tensor, stride: int) -> tf.Tensor:
    """Pads the far ends of an image with its background until its extents are multiples.

    The background is that of `brain.background`: in a z-scored image it is not 0, which would be
    the mean of the head.

    Args:
        image: float32 [B, X, Y, Z, C].
        stride: the extents of the result are multiples of it.

    Returns:
        float32 [B, X', Y', Z', C]; `image` itself if nothing is missing.
    """
    static = image.shape[1:4]
    if static.is_fully_defined():
        missing = [-extent % stride for extent in static]
        if not any(missing):
            return image
        shape = [image.shape[0], *map(sum, zip(static, missing)), image.shape[4]]
        return tf.ensure_shape(_pad_with_background(image, tf.constant(missing)), shape)
    missing = -tf.shape(image)[1:4] % stride
    return tf.cond(
        tf.reduce_any(missing > 0),
        lambda: _pad_with_background(image, missing),
        lambda: tf.identity(image),
    )


def _pad_with_background(image, missing):
    none = tf.zeros_like(missing)
    padding = 1 - _pad(tf.ones_like(image[..., :1]), none, missing)
    # The voxels of the image keep their bits: 0 * background is added to them.
    return _pad(image, none, missing) + padding * brain.background(image)


def predict_windows(network: Callable, image: tf.Tensor, channels: int, piece: Piece) -> tf.Tensor:
    """Predicts an image in overlapping windows, each weighted by a Gaussian around its centre.

    Windows have the extents of the piece, or of the image where that is smaller. They are spread
    evenly; the first and the last one touch the ends of the image.

    Args, Returns:
        As in `predict`.
    """
    extents = tf.shape(image)[1:4]
    size = tf.minimum(extents, piece.shape)
    starts = _starts(extents, size)
    weight = _gaussian(size)
    shapes = (
        tf.TensorShape([]),
        tf.TensorShape([None, None, None, None, channels]),
        tf.TensorShape([1, None, None, None, 1]),
    )

    def add_window(index, total, weights):
        start = starts[index]
        window = tf.slice(image, tf.concat([[0], start, [0]], 0), tf.concat([[-1], size, [-1]], 0))
        window = tf.ensure_shape(window, _window_shape(image, piece))
        behind = extents - start - size
        total += _pad(predict_whole(network, window, piece.stride) * weight, start, behind)
        weights += _pad(weight, start, behind)
        return index + 1, tf.ensure_shape(total, shapes[1]), tf.ensure_shape(weights, shapes[2])

    start_values = (
        0,
        tf.zeros(tf.concat([tf.shape(image)[:4], [channels]], 0)),
        tf.zeros(tf.concat([[1], extents, [1]], 0)),
    )
    _, total, weights = tf.while_loop(
        lambda index, *_: index < tf.shape(starts)[0],
        add_window,
        start_values,
        shape_invariants=shapes,
        parallel_iterations=1,  # the activations of a window take most of the memory
    )
    return total / weights


def _window_shape(image, piece):
    """Returns the static shape of the windows of an image, as far as it is known."""
    extents = [
        None if extent is None else min(extent, most)
        for extent, most in zip(image.shape[1:4], piece.shape)
    ]
    return [None, *extents, image.shape[4]]


def _starts(extents, size):
    """Returns the first voxels of the windows, int32 [N, 3]."""
    axes = []
    for axis in range(3):
        step = tf.maximum(tf.cast(tf.cast(size[axis], tf.float64) * (1 - OVERLAP), tf.int32), 1)
        room = extents[axis] - size[axis]
        count = -(-room // step) + 1
        # The last window ends with the image: at count - 1 the quotient is exactly `room`.
        axes.append(tf.range(count) * room // tf.maximum(count - 1, 1))
    grid = tf.meshgrid(*axes, indexing="ij")
    return tf.stack([tf.reshape(axis, [-1]) for axis in grid], axis=1)


def _gaussian(size):
    """Returns float32 [1, x, y, z, 1], largest at the centre, positive everywhere."""
    # The graph stores no weights, only how to compute them: a cube of 128 voxels takes 8 MB.
    x, y, z = (_gaussian_line(size[axis]) for axis in range(3))
    return tf.cast(x[:, None, None] * y[:, None] * z, tf.float32)[None, ..., None]


def _gaussian_line(size):
    """Returns the weights along one axis, float64 [size]."""
    width = tf.cast(size, tf.float64)
    distance = (tf.range(width) - (width - 1) / 2) / (SIGMA * width)
    return tf.exp(-0.5 * distance**2)


def _pad(tensor, before, after):
    """Pads the spatial axes of [B, X, Y, Z, C] with int32 [3] zeros before and after."""
    return zero_pad(tensor, tf.pad(tf.stack([before, after], axis=1), [[1, 1], [0, 0]]))


def _is_count(value, least):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
