"""Prediction of images of any size, in a graph: one piece if it fits, windows if it does not."""

import numpy as np
import tensorflow as tf

WINDOW = 128
"""Edge in voxels of a window, before it is rounded up to the network's stride."""

OVERLAP = 0.5
SIGMA = 0.125
"""Deviation of a window's Gaussian weight, as a share of its edge (Isensee et al. 2021)."""


def predict(network, image, stride, whole_voxels):
    """Runs `network` on images of any size.

    Args:
        network: float32 [B, x, y, z, C] -> float32 [B, x, y, z, K] for extents that are multiples
            of `stride`; its `output_shape` ends in K.
        image: float32 [B, X, Y, Z, C].
        stride: int.
        whole_voxels: at most this many voxels an image go through in one piece; larger ones go
            through in overlapping windows, blended with Gaussian weights.

    Returns:
        float32 [B, X, Y, Z, K].
    """
    voxels = tf.reduce_prod(tf.cast(tf.shape(image)[1:4], tf.int64))
    return tf.cond(
        voxels <= whole_voxels,
        lambda: predict_whole(network, image, stride),
        lambda: predict_windows(network, image, stride),
    )


def predict_whole(network, image, stride):
    """One piece: zero-pads the far ends to multiples of `stride`, predicts, crops back."""
    extent = tf.shape(image)[1:4]
    missing = (-extent) % stride
    padded = _pad(image, tf.zeros_like(missing), missing)
    return network(padded)[:, : extent[0], : extent[1], : extent[2]]


def predict_windows(network, image, stride):
    """Overlapping windows, each weighted by a Gaussian around its centre.

    The image is padded to at least one window an axis; windows are spread evenly, the first and
    the last flush with the ends.
    """
    extent = tf.shape(image)[1:4]
    edge = -(-WINDOW // stride) * stride
    missing = tf.maximum(edge - extent, 0)
    padded = _pad(image, tf.zeros_like(missing), missing)
    starts = _starts(extent + missing, edge)
    weight = _gaussian(edge)

    def add_window(k, total, weights):
        start = starts[k]
        cut = tf.slice(padded, tf.concat([[0], start, [0]], 0), [-1, edge, edge, edge, -1])
        cut = tf.ensure_shape(cut, [None, edge, edge, edge, image.shape[-1]])
        behind = extent + missing - start - edge
        total += _pad(network(cut) * weight, start, behind)
        weights += _pad(weight, start, behind)
        return k + 1, tf.ensure_shape(total, shapes[1]), tf.ensure_shape(weights, shapes[2])

    classes = network.output_shape[-1]
    shapes = ([], [None, None, None, None, classes], [1, None, None, None, 1])
    grid = tf.shape(padded)[1:4]
    start_values = (
        0,
        tf.zeros(tf.concat([tf.shape(padded)[:1], grid, [classes]], 0)),
        tf.zeros(tf.concat([[1], grid, [1]], 0)),
    )
    _, total, weights = tf.while_loop(
        lambda k, *_: k < tf.shape(starts)[0],
        add_window,
        start_values,
        shape_invariants=tuple(tf.TensorShape(shape) for shape in shapes),
        parallel_iterations=1,  # a window's activations are what fills the memory
    )
    return (total / weights)[:, : extent[0], : extent[1], : extent[2]]


def _starts(extent, edge):
    """First voxels of the windows, int32 [N, 3]."""
    step = int(edge * (1 - OVERLAP))
    axes = []
    for axis in range(3):
        room = extent[axis] - edge
        count = -(-room // step) + 1
        # Rounding down keeps the last one flush: at k = count - 1 the quotient is exactly `room`.
        axes.append(tf.range(count) * room // tf.maximum(count - 1, 1))
    grid = tf.meshgrid(*axes, indexing="ij")
    return tf.stack([tf.reshape(axis, [-1]) for axis in grid], axis=1)


def _gaussian(edge):
    """float32 [1, edge, edge, edge, 1], largest at the centre, nowhere zero."""
    distance = (np.arange(edge) - (edge - 1) / 2) / (SIGMA * edge)
    # The graph holds a line and makes the cube of it, which is 8 MB.
    line = tf.constant(np.exp(-0.5 * distance**2))
    cube = line[:, None, None] * line[:, None] * line
    return tf.cast(cube, tf.float32)[None, ..., None]


def _pad(tensor, before, after):
    """Zeros around the spatial axes of [B, X, Y, Z, C], int32 [3] voxels before and after.

    Not tf.pad: TensorFlow 2.15 folds its Pad into a convolution that follows, on CPUs with
    oneDNN, and gets the shape wrong where paddings are constant. It leaves PadV2 alone.
    """
    paddings = tf.pad(tf.stack([before, after], axis=1), [[1, 1], [0, 0]])
    return tf.raw_ops.PadV2(input=tensor, paddings=paddings, constant_values=0.0)
