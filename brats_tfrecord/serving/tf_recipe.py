"""The preprocessing recipe as TensorFlow operations, equal to `preprocess.recipe` to the bit."""

from collections.abc import Sequence

import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.preprocess.recipe import POSITIVE, REFERENCES, Recipe


def window(volume: tf.Tensor, recipe: Recipe, modalities: Sequence[str]) -> tf.Tensor:
    """Computes the first voxel of the crop window, as `Recipe.window` does.

    Args:
        volume: float32 [X, Y, Z, C], any shape.
        recipe: the recipe.
        modalities: names of the channels.

    Returns:
        int32 [3], the window's first voxel; negative where the window leaves the volume.
    """
    fixed = tf.constant(recipe.crop_origin)
    if recipe.crop == "fixed":
        return fixed

    def around_brain():
        first, stop, _ = _brain_box(volume, modalities)
        return _centred(first, stop, tf.shape(volume)[:3], recipe.crop_shape)

    if recipe.crop == "brain":
        return around_brain()
    documented = tf.reduce_all(tf.equal(tf.shape(volume)[:3], spec.BRATS_GRID))
    return tf.ensure_shape(tf.cond(documented, lambda: fixed, around_brain), [3])


def covering_box(
    volume: tf.Tensor, origin: tf.Tensor, recipe: Recipe, modalities: Sequence[str], alignment: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Extends the recipe's window until it contains the brain, as `Recipe.covering_box` does.

    Args:
        volume: float32 [X, Y, Z, C], any shape.
        origin: int32 [3], the window's first voxel.
        recipe: the recipe; defines which voxels are brain.
        modalities: names of the channels.
        alignment: `Piece.alignment` of the network.

    Returns:
        (int32 [3] first voxel, int32 [3] extents) of the box, which may leave the volume; the
        window itself if there is no brain.
    """
    first, stop, any_brain = _brain_box(volume, modalities)
    end = origin + recipe.crop_shape
    first, stop = tf.where(any_brain, first, origin), tf.where(any_brain, stop, end)
    low = origin - _round_up(origin - first, alignment)
    return low, end + _round_up(stop - end, alignment) - low


def network_input(
    volume: tf.Tensor, origin: tf.Tensor, box: tuple[tf.Tensor, tf.Tensor], recipe: Recipe
) -> tf.Tensor:
    """Crops a box and normalises it with the window's statistics, as `Recipe.network_input` does.

    Args:
        volume: float32 [X, Y, Z, C], any shape.
        origin: int32 [3], first voxel of the window whose mean and deviation are used.
        box: (int32 [3] first voxel, int32 [3] extents), from `covering_box`.
        recipe: the recipe.

    Returns:
        float32 [*extents, C], rounded to the recipe's image dtype. Where the box leaves the
        volume it is padded with zeros before the normalisation. Within the window the values are
        bit-equal to the image of a record.
    """
    mean, deviation = _statistics(_cut(volume, origin, recipe.crop_shape), recipe.normalize)
    cut = tf.cast(_cut(volume, *box), tf.float64)
    scaled = tf.math.divide_no_nan(cut - mean, deviation)
    if recipe.normalize == "brain":
        scaled = tf.where(cut != 0, scaled, 0)
    image = tf.cast(scaled, tf.float32)
    image = tf.ensure_shape(image, [None, None, None, volume.shape[-1]])
    return tf.cast(tf.cast(image, recipe.image_dtype), tf.float32)


def to_grid(
    box: tf.Tensor, origin: tf.Tensor, shape: tf.Tensor | Sequence[int], fill: float
) -> tf.Tensor:
    """Puts a box back on the whole grid, as `Recipe.to_grid` does.

    Args:
        box: [X, Y, Z, C].
        origin: int32 [3], the box's first voxel on the grid.
        shape: int32 [3], the grid.
        fill: value outside the box.

    Returns:
        [*shape, C], dtype of `box`.
    """
    before, low, size = _overlap(origin, tf.shape(box)[:3], shape)
    inside = _slice(box, before, size)
    return _pad(inside, low, shape - low - size, fill)


def _brain_box(volume, modalities):
    """Returns the box of the recipe's brain in float32 [X, Y, Z, C].

    The brain is the positive part of the first of `REFERENCES` that is positive anywhere.

    Returns:
        (int32 [3] first voxel, int32 [3] stop, bool whether there is a brain). Without a brain the
        box is the whole volume.
    """
    inside = volume >= POSITIVE
    plane = tf.reduce_any(inside, axis=0)
    by_channel = (  # bool [X, C], [Y, C], [Z, C]
        tf.reduce_any(inside, axis=(1, 2)),
        tf.reduce_any(plane, axis=1),
        tf.reduce_any(plane, axis=0),
    )
    channels = [modalities.index(name) for name in REFERENCES if name in modalities]
    is_positive = tf.gather(tf.reduce_any(by_channel[0], axis=0), channels)
    # Without any true value argmax returns 0, and the box is the whole line.
    reference = tf.gather(channels, _first_true(is_positive))
    lines = [inside_line[:, reference] for inside_line in by_channel]
    behind = tf.stack([_first_true(line[::-1]) for line in lines])
    stop = tf.shape(volume)[:3] - behind
    return tf.stack([_first_true(line) for line in lines]), stop, tf.reduce_any(is_positive)


def _first_true(line):
    return tf.argmax(tf.cast(line, tf.uint8), output_type=tf.int32)


def _centred(first, stop, shape, window_shape):
    """Returns the first voxel of the window centred on a box, as `crop.centred` does."""
    spare = shape - window_shape
    return tf.clip_by_value(
        (first + stop - window_shape) // 2, tf.minimum(spare, 0), tf.maximum(spare, 0)
    )


def _round_up(voxels, alignment):
    """Rounds int32 [3] up to a multiple of `alignment`; negative numbers to 0."""
    return -(-tf.maximum(voxels, 0) // alignment) * alignment


def _statistics(window, region):
    """Returns mean and deviation of each channel of [X, Y, Z, C], as `normalize.zscore` does."""
    window = tf.cast(window, tf.float64)
    inside = window != 0 if region == "brain" else None
    mean = _rounded(_mean(window, inside))
    return mean, _rounded(tf.sqrt(_mean(tf.square(window - mean), inside)))


def _mean(values, inside):
    """Mean of each channel of [X, Y, Z, C] where `inside` is true; 0 where it is true nowhere."""
    if inside is None:
        return tf.reduce_mean(values, axis=(0, 1, 2))
    total = tf.reduce_sum(tf.where(inside, values, 0), axis=(0, 1, 2))
    voxels = tf.reduce_sum(tf.cast(inside, values.dtype), axis=(0, 1, 2))
    return tf.math.divide_no_nan(total, voxels)


def _rounded(statistic):
    """Rounds to float32, as `preprocess.normalize.zscore` does."""
    return tf.cast(tf.cast(statistic, tf.float32), tf.float64)


def _cut(volume, origin, extents):
    """Crops [*extents, C] from [X, Y, Z, C]; zeros outside the volume, as in `crop.crop`."""
    before, low, size = _overlap(origin, extents, tf.shape(volume)[:3])
    cut = _slice(volume, low, size)
    return _pad(cut, before, extents - before - size, 0)


def _slice(array, first, size):
    """Slices [*size, C] from [X, Y, Z, C]. GPUs have no tf.slice of uint8."""
    x, y, z = (slice(first[axis], first[axis] + size[axis]) for axis in range(3))
    return array[x, y, z]


def _overlap(origin, window_shape, shape):
    """Returns the overlap of window and volume: offset in the window, in the volume, size."""
    low = tf.clip_by_value(origin, 0, shape)
    high = tf.clip_by_value(origin + window_shape, low, shape)
    # The last clip is for windows that lie entirely outside.
    return tf.clip_by_value(low - origin, 0, window_shape), low, high - low


def _pad(tensor, before, after, fill):
    """Pads the spatial axes of [X, Y, Z, C] with `fill`, int32 [3] voxels before and after."""
    paddings = tf.pad(tf.stack([before, after], axis=1), [[0, 1], [0, 0]])
    return tf.pad(tensor, paddings, constant_values=tf.cast(fill, tensor.dtype))
