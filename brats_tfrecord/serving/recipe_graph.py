"""`preprocess.recipe` in a graph: the same window, the same network input, the same undo."""

import tensorflow as tf

from brats_tfrecord.preprocess.recipe import DOCUMENTED_GRID, POSITIVE, REFERENCES


def window(volume, recipe, modalities):
    """`Recipe.window` in a graph.

    Args:
        volume: float32 [X, Y, Z, C], any shape.
        recipe: `Recipe`.
        modalities: names of the channels.

    Returns:
        int32 [3], the window's first voxel; negative where it leaves the volume.
    """
    fixed = tf.constant(recipe.crop_origin)
    if recipe.crop == "fixed":
        return fixed

    def around_brain():
        first, stop, _ = _ends(_brain(volume, modalities))
        return _centred(first, stop, tf.shape(volume)[:3], recipe.crop_shape)

    if recipe.crop == "brain":
        return around_brain()
    documented = tf.reduce_all(tf.equal(tf.shape(volume)[:3], DOCUMENTED_GRID))
    return tf.ensure_shape(tf.cond(documented, lambda: fixed, around_brain), [3])


def covering_box(volume, origin, recipe, modalities, stride):
    """The recipe's window, grown until it holds the brain.

    A side grows in whole multiples of `stride`, and only where brain lies beyond it: then the
    network pools the window's voxels in the groups in which it would pool those of the window
    alone, and what it sees of the head around them is the head, not padding. The brain is where
    the recipe looks for it; where there is none, the box is the window.

    Args:
        volume: float32 [X, Y, Z, C], any shape.
        origin: int32 [3], the window's first voxel.
        recipe: `Recipe`.
        modalities: names of the channels.
        stride: of the network.

    Returns:
        (int32 [3] first voxel, int32 [3] extents); it may leave the volume, as the window may.
    """
    first, stop, found = _ends(_brain(volume, modalities))
    end = origin + recipe.crop_shape
    first, stop = tf.where(found, first, origin), tf.where(found, stop, end)
    low = origin - _whole(origin - first, stride)
    return low, end + _whole(stop - end, stride) - low


def network_input(volume, origin, box, recipe):
    """`Recipe.network_input` in a graph, of a box around the window.

    Args:
        volume: float32 [X, Y, Z, C], any shape.
        origin: int32 [3], the window's first voxel; statistics are the window's.
        box: (int32 [3] first voxel, int32 [3] extents), as from `covering_box`.
        recipe: `Recipe`.

    Returns:
        float32 [*extents, C]: rounded to the recipe's image dtype; zero-padded before it is
        normalised where the box leaves the volume. Of the window's voxels bit-equal to the
        stored image.
    """
    mean, deviation = _statistics(tf.cast(_cut(volume, origin, recipe.crop_shape), tf.float64))
    centred = tf.cast(_cut(volume, *box), tf.float64) - mean
    image = tf.cast(tf.math.divide_no_nan(centred, deviation), tf.float32)
    image = tf.ensure_shape(image, [None, None, None, volume.shape[-1]])
    return tf.cast(tf.cast(image, recipe.image_dtype), tf.float32)


def to_grid(cut, origin, shape, fill):
    """`Recipe.to_grid` in a graph: [X, Y, Z, C] at `origin` to [*shape, C]."""
    before, low, size = _overlap(origin, tf.shape(cut)[:3], shape)
    inside = tf.slice(cut, tf.pad(before, [[0, 1]]), tf.concat([size, [-1]], 0))
    return _pad(inside, low, shape - low - size, fill)


def _brain(volume, modalities):
    """bool [X, Y, Z]: where the recipe sees brain in float32 [X, Y, Z, C]."""
    reference = next(name for name in REFERENCES if name in modalities)
    return volume[..., modalities.index(reference)] >= POSITIVE


def _ends(inside):
    """`crop.bounding_box` of bool [X, Y, Z]: int32 [3] first and stop, and whether any is true."""
    plane = tf.reduce_any(inside, axis=0)
    lines = (
        tf.reduce_any(inside, axis=(1, 2)),
        tf.reduce_any(plane, axis=1),
        tf.reduce_any(plane, axis=0),
    )
    # Where nothing is true both ends of the line are: argmax finds the first of equals.
    first = [tf.argmax(tf.cast(line, tf.uint8), output_type=tf.int32) for line in lines]
    behind = [tf.argmax(tf.cast(line[::-1], tf.uint8), output_type=tf.int32) for line in lines]
    return tf.stack(first), tf.shape(inside) - tf.stack(behind), tf.reduce_any(lines[0])


def _centred(first, stop, shape, window_shape):
    """`crop.centred` of int32 [3] vectors: int32 [3]."""
    spare = shape - window_shape
    return tf.clip_by_value(
        (first + stop - window_shape) // 2, tf.minimum(spare, 0), tf.maximum(spare, 0)
    )


def _whole(voxels, stride):
    """The least multiple of `stride` that is not less than `voxels`; 0 for negative ones."""
    return -(-tf.maximum(voxels, 0) // stride) * stride


def _statistics(window):
    """Mean and deviation of each channel of float64 [X, Y, Z, C], as `normalize.zscore` has."""
    mean = _rounded(tf.reduce_mean(window, axis=(0, 1, 2)))
    return mean, _rounded(tf.sqrt(tf.reduce_mean(tf.square(window - mean), axis=(0, 1, 2))))


def _rounded(statistic):
    """To float32 and back: see `preprocess.normalize.zscore`."""
    return tf.cast(tf.cast(statistic, tf.float32), tf.float64)


def _cut(volume, origin, extents):
    """`crop.crop` in a graph: [*extents, C] of [X, Y, Z, C], zero where it leaves the volume."""
    before, low, size = _overlap(origin, extents, tf.shape(volume)[:3])
    cut = tf.slice(volume, tf.pad(low, [[0, 1]]), tf.concat([size, [-1]], 0))
    return _pad(cut, before, extents - before - size, 0)


def _overlap(origin, window_shape, shape):
    """Where window and volume overlap: offset in the window, offset in the volume, size."""
    low = tf.clip_by_value(origin, 0, shape)
    high = tf.clip_by_value(origin + window_shape, low, shape)
    # The second clip is for windows wholly outside.
    return tf.clip_by_value(low - origin, 0, window_shape), low, high - low


def _pad(tensor, before, after, fill):
    paddings = tf.pad(tf.stack([before, after], axis=1), [[0, 1], [0, 0]])
    return tf.pad(tensor, paddings, constant_values=tf.cast(fill, tensor.dtype))
