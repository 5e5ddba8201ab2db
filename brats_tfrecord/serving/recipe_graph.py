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
    reference = next(name for name in REFERENCES if name in modalities)

    def around_brain():
        return _centred(volume[..., modalities.index(reference)] >= POSITIVE, recipe.crop_shape)

    if recipe.crop == "brain":
        return around_brain()
    documented = tf.reduce_all(tf.equal(tf.shape(volume)[:3], DOCUMENTED_GRID))
    return tf.ensure_shape(tf.cond(documented, lambda: fixed, around_brain), [3])


def network_input(volume, origin, recipe):
    """`Recipe.network_input` in a graph: the same crop, statistics and image dtype.

    Args:
        volume: float32 [X, Y, Z, C], any shape.
        origin: int32 [3], the window's first voxel.
        recipe: `Recipe`.

    Returns:
        float32 [*crop_shape, C], bit-equal to the stored image.
    """
    before, low, size = _overlap(origin, recipe.crop_shape, tf.shape(volume)[:3])
    after = tf.constant(recipe.crop_shape) - before - size
    cut = tf.slice(volume, tf.pad(low, [[0, 1]]), tf.concat([size, [-1]], 0))
    cut = tf.cast(_pad(cut, before, after, 0), tf.float64)
    centred = cut - _rounded(tf.reduce_mean(cut, axis=(0, 1, 2)))
    deviation = _rounded(tf.sqrt(tf.reduce_mean(tf.square(centred), axis=(0, 1, 2))))
    image = tf.cast(tf.math.divide_no_nan(centred, deviation), tf.float32)
    image = tf.ensure_shape(image, [*recipe.crop_shape, None])
    return tf.cast(tf.cast(image, recipe.image_dtype), tf.float32)


def to_grid(cut, origin, shape, fill):
    """`Recipe.to_grid` in a graph: [X, Y, Z, C] at `origin` to [*shape, C]."""
    before, low, size = _overlap(origin, tf.shape(cut)[:3], shape)
    inside = tf.slice(cut, tf.pad(before, [[0, 1]]), tf.concat([size, [-1]], 0))
    return _pad(inside, low, shape - low - size, fill)


def _centred(inside, window_shape):
    """`crop.centred` around `crop.bounding_box(inside)`, bool [X, Y, Z]: int32 [3]."""
    plane = tf.reduce_any(inside, axis=0)
    lines = (tf.reduce_any(inside, axis=(1, 2)), tf.reduce_any(plane, axis=1),
             tf.reduce_any(plane, axis=0))
    origin = []
    for line, size in zip(lines, window_shape):
        # Where nothing is true both ends of the line are: argmax finds the first of equals.
        length = tf.size(line)
        first = tf.argmax(tf.cast(line, tf.uint8), output_type=tf.int32)
        behind = tf.argmax(tf.cast(line[::-1], tf.uint8), output_type=tf.int32)
        middle = (first + length - behind - size) // 2
        spare = length - size
        origin.append(tf.clip_by_value(middle, tf.minimum(spare, 0), tf.maximum(spare, 0)))
    return tf.stack(origin)


def _rounded(statistic):
    """To float32 and back: see `preprocess.normalize.zscore`."""
    return tf.cast(tf.cast(statistic, tf.float32), tf.float64)


def _overlap(origin, window_shape, shape):
    """Where window and volume overlap: offset in the window, offset in the volume, size."""
    low = tf.clip_by_value(origin, 0, shape)
    high = tf.clip_by_value(origin + window_shape, low, shape)
    # The second clip is for windows wholly outside.
    return tf.clip_by_value(low - origin, 0, window_shape), low, high - low


def _pad(tensor, before, after, fill):
    paddings = tf.pad(tf.stack([before, after], axis=1), [[0, 1], [0, 0]])
    return tf.pad(tensor, paddings, constant_values=tf.cast(fill, tensor.dtype))
