"""Predicts images of any size inside a graph: in one piece, or in overlapping windows."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from brats_tfrecord.tf_padding import zero_pad

WINDOW = 128
"""Edge of a window in voxels, before it is rounded up to a multiple of the network's stride."""

OVERLAP = 0.5
"""Smallest overlap of neighbouring windows, as a fraction of their edge."""

SIGMA = 0.125
"""Standard deviation of a window's Gaussian weight, as a fraction of its edge (Isensee et al.
2021)."""


def predict(
    network: Callable, image: tf.Tensor, channels: int, stride: int, whole_voxels: int
) -> tf.Tensor:
    """Runs a network on images of any size.

    Args:
        network: function float32 [B, x, y, z, C] -> float32 [B, x, y, z, K] for extents that are
            multiples of `stride`.
        image: float32 [B, X, Y, Z, C].
        channels: K.
        stride: stride of the network in voxels.
        whole_voxels: images of up to this many voxels are predicted in one piece; larger ones in
            overlapping windows that are blended with Gaussian weights.

    Returns:
        float32 [B, X, Y, Z, K].
    """
    voxels = tf.reduce_prod(tf.cast(tf.shape(image)[1:4], tf.int64))
    return tf.cond(
        voxels <= whole_voxels,
        lambda: predict_whole(network, image, stride),
        lambda: predict_windows(network, image, channels, stride),
    )


def predict_whole(network: Callable, image: tf.Tensor, stride: int) -> tf.Tensor:
    """Predicts an image in one piece: pads its far ends with zeros to the stride, then crops.

    Args, Returns:
        As in `predict`.
    """
    extent = tf.shape(image)[1:4]
    missing = (-extent) % stride
    padded = _pad(image, tf.zeros_like(missing), missing)
    return network(padded)[:, : extent[0], : extent[1], : extent[2]]


def predict_windows(network: Callable, image: tf.Tensor, channels: int, stride: int) -> tf.Tensor:
    """Predicts an image in overlapping windows, each weighted by a Gaussian around its centre.

    The image is padded to at least one window along each axis. Windows are spread evenly; the
    first and the last one touch the ends of the image.

    Args, Returns:
        As in `predict`.
    """
    extent = tf.shape(image)[1:4]
    edge = -(-WINDOW // stride) * stride
    missing = tf.maximum(edge - extent, 0)
    padded = _pad(image, tf.zeros_like(missing), missing)
    starts = _starts(extent + missing, edge)
    weight = _gaussian(edge)
    shapes = (
        tf.TensorShape([]),
        tf.TensorShape([None, None, None, None, channels]),
        tf.TensorShape([1, None, None, None, 1]),
    )

    def add_window(index, total, weights):
        start = starts[index]
        window = tf.slice(padded, tf.concat([[0], start, [0]], 0), [-1, edge, edge, edge, -1])
        window = tf.ensure_shape(window, [None, edge, edge, edge, image.shape[-1]])
        behind = extent + missing - start - edge
        total += _pad(network(window) * weight, start, behind)
        weights += _pad(weight, start, behind)
        return index + 1, tf.ensure_shape(total, shapes[1]), tf.ensure_shape(weights, shapes[2])

    grid = tf.shape(padded)[1:4]
    start_values = (
        0,
        tf.zeros(tf.concat([tf.shape(padded)[:1], grid, [channels]], 0)),
        tf.zeros(tf.concat([[1], grid, [1]], 0)),
    )
    _, total, weights = tf.while_loop(
        lambda index, *_: index < tf.shape(starts)[0],
        add_window,
        start_values,
        shape_invariants=shapes,
        parallel_iterations=1,  # the activations of a window take most of the memory
    )
    return (total / weights)[:, : extent[0], : extent[1], : extent[2]]


def _starts(extent, edge):
    """Returns the first voxels of the windows, int32 [N, 3]."""
    step = int(edge * (1 - OVERLAP))
    axes = []
    for axis in range(3):
        room = extent[axis] - edge
        count = -(-room // step) + 1
        # The last window ends with the image: at count - 1 the quotient is exactly `room`.
        axes.append(tf.range(count) * room // tf.maximum(count - 1, 1))
    grid = tf.meshgrid(*axes, indexing="ij")
    return tf.stack([tf.reshape(axis, [-1]) for axis in grid], axis=1)


def _gaussian(edge):
    """Returns float32 [1, edge, edge, edge, 1], largest at the centre, positive everywhere."""
    distance = (np.arange(edge) - (edge - 1) / 2) / (SIGMA * edge)
    # The graph stores one line and computes the cube, which takes 8 MB.
    line = tf.constant(np.exp(-0.5 * distance**2))
    cube = line[:, None, None] * line[:, None] * line
    return tf.cast(cube, tf.float32)[None, ..., None]


def _pad(tensor, before, after):
    """Pads the spatial axes of [B, X, Y, Z, C] with int32 [3] zeros before and after."""
    return zero_pad(tensor, tf.pad(tf.stack([before, after], axis=1), [[1, 1], [0, 0]]))
