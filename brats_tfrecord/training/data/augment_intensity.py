"""Intensity augmentation of a patch, computed in float32, channel by channel.

A float16 image has at most 65,536 different values. Transforms that map values to values (scale,
shift, gamma) are therefore computed once per value and looked up for each voxel, because NumPy
casts float16 slowly.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from brats_tfrecord.training.data import half_precision
from brats_tfrecord.training.data.augment import PatchParameters
from brats_tfrecord.training.data.half_precision import FLOAT16, to_float32

BLOCK = 2**17
"""Values that are looked up by one call: fewer calls hold the interpreter lock more often, and the
indices of more values, 8 bytes each, do not stay in the processor's cache."""


def augment_intensities(image: np.ndarray, parameters: PatchParameters) -> None:
    """Applies the drawn intensity transforms in place.

    Args:
        image: float16 or float32 [X, Y, Z, C], contiguous in C order.
        parameters: which transforms to apply, and how strongly.
    """
    for channel in range(image.shape[3]):
        steps = _neighbourhood_steps(parameters, channel, image.dtype)
        if steps:
            image[..., channel] = _chain(to_float32(image[..., channel]), steps)
    p, low, high, mean = parameters, None, None, None
    if not (p.contrast is None and p.inverted_gamma is None and p.gamma is None):
        low, high = extremes(image)
    if p.contrast is not None:
        mean = approximate_mean(image)
    value_steps = [_value_steps(p, n, low, high, mean) for n in range(image.shape[3])]
    if any(value_steps):
        _map_values(image, value_steps)


def blur(voxels: np.ndarray, sigma: float) -> np.ndarray:
    """Applies Gaussian blur to float32 [X, Y, Z]; `sigma` in voxels, border values repeated."""
    return ndimage.gaussian_filter(voxels, sigma, mode="nearest", truncate=3)


def lower_resolution(voxels: np.ndarray, kept: float, enlarge: Callable) -> np.ndarray:
    """Samples [X, Y, Z] down to a share `kept` of each axis, nearest, and linearly up again.

    `enlarge` is one of the two functions below.
    """
    few = np.maximum(1, np.round(np.multiply(voxels.shape, kept))).astype(int)
    nearest = [((np.arange(n) + 0.5) * full / n).astype(int) for n, full in zip(few, voxels.shape)]
    return enlarge(voxels[np.ix_(*nearest)], voxels.shape)


def enlarge_by_axis(voxels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Interpolates float32 [x, y, z] to a larger shape, one axis after the other.

    Rounded to float16, the values are those of `enlarge_at_once`.
    """
    along_x, along_y, along_z = (_neighbours(*pair) for pair in zip(voxels.shape, shape))
    # Plane by plane, so that the operands stay in the processor's cache.
    planes = np.empty((len(voxels), *shape[1:]))
    for plane, few in zip(planes, voxels.astype(np.float64)):
        low, high, share = along_z
        few = few.take(low, axis=1) * (1 - share) + few.take(high, axis=1) * share
        low, high, share = along_y
        share = share[:, None]
        plane[:] = few.take(low, axis=0) * (1 - share) + few.take(high, axis=0) * share
    out = np.empty(shape, voxels.dtype)
    for plane, low, high, share in zip(out, *along_x):
        plane[:] = planes[low] * (1 - share) + planes[high] * share
    return out


def enlarge_at_once(voxels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Interpolates float32 [x, y, z] to a larger shape with a single rounding."""
    return ndimage.zoom(
        voxels,
        np.divide(shape, voxels.shape),
        order=1,
        mode="nearest",
        prefilter=False,
        grid_mode=True,
    )


def add_noise(voxels: np.ndarray, seed: int | Sequence[int], deviation: float) -> np.ndarray:
    """Adds Gaussian noise to float32 [X, Y, Z]."""
    noise = np.random.default_rng(seed).standard_normal(voxels.shape, np.float32)
    noise *= deviation
    noise += voxels
    return noise


def power_law(values: np.ndarray, exponent: float, low: float, high: float) -> np.ndarray:
    """Raises values, scaled to 0 at `low` and 1 at `high`, to a power, and scales them back.

    Values beyond `low` and `high` are clipped. Values are returned unchanged unless high > low.
    """
    if not high > low:
        return values
    span = high - low
    return np.clip((values - low) / span, 0, 1) ** exponent * span + low


def change_contrast(
    values: np.ndarray, factor: float, mean: float, low: float, high: float
) -> np.ndarray:
    """Multiplies the distance of values from `mean`, and clips them to `low` and `high`."""
    return np.clip((values - mean) * factor + mean, low, high)


def approximate_mean(image: np.ndarray) -> np.ndarray:
    """Returns the mean of every second voxel along each axis, float32 [C], of [X, Y, Z, C]."""
    some = to_float32(np.ascontiguousarray(image[::2, ::2, ::2]))
    return _reduce(np.add, some) / np.float32(some[..., 0].size)


def extremes(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smallest and the largest value of each channel, float32 [C].

    Args:
        image: float16 or float32 [X, Y, Z, C], contiguous in C order, without NaNs.
    """
    if image.dtype != FLOAT16:
        return _reduce(np.minimum, image), _reduce(np.maximum, image)
    # NumPy compares float16 slowly. As signed integers, the positive ones have their order. As
    # unsigned integers, the negative ones are larger, in reversed order.
    signed, unsigned = image.view("<i2"), image.view("<u2")
    highest, lowest = _reduce(np.maximum, signed), _reduce(np.maximum, unsigned)
    high = np.where(highest >= 0, highest, _reduce(np.minimum, signed)).astype("<i2")
    low = np.where(lowest >= 2**15, lowest, _reduce(np.minimum, unsigned)).astype("<u2")
    return low.view(FLOAT16).astype(np.float32), high.view(FLOAT16).astype(np.float32)


def _neighbours(few, many):
    """Where each of `many` voxels lies between `few`: (voxel, next voxel, share of the next)."""
    position = np.clip((np.arange(many) + 0.5) * (few / many) - 0.5, 0, few - 1)
    low = position.astype(int)
    return low, np.minimum(low + 1, few - 1), position - low


def _reduce(function, image):
    """Reduces [X, Y, Z, C] to [C]; first over X, where many values lie side by side."""
    rows = function.reduce(image.reshape(len(image), -1))
    return function.reduce(rows.reshape(-1, image.shape[3]))


def _neighbourhood_steps(parameters, channel, dtype):
    """The transforms that need more than the value of a voxel, in order."""
    steps = []
    if parameters.blur is not None and parameters.blur[channel] > 0:
        steps.append(lambda voxels: blur(voxels, parameters.blur[channel]))
    if parameters.low_resolution is not None and parameters.low_resolution[channel] < 1:
        kept = parameters.low_resolution[channel]
        # Images of float32 keep the values that earlier versions computed, to the last bit.
        enlarge = enlarge_by_axis if dtype == FLOAT16 else enlarge_at_once
        steps.append(lambda voxels: lower_resolution(voxels, kept, enlarge))
    if parameters.noise is not None and parameters.noise[1][channel] > 0:
        seed, deviation = parameters.noise
        steps.append(lambda voxels: add_noise(voxels, [seed, channel], deviation[channel]))
    return steps


def _value_steps(parameters, channel, low, high, mean):
    """The transforms that map values to values, in order; all but the last keep the extremes."""
    p, steps = parameters, []
    if p.contrast is not None:
        steps.append(
            lambda values: change_contrast(
                values, p.contrast[channel], mean[channel], low[channel], high[channel]
            )
        )
    if p.inverted_gamma is not None:
        steps.append(
            lambda values: (
                -power_law(-values, p.inverted_gamma[channel], -high[channel], -low[channel])
            )
        )
    if p.gamma is not None:
        steps.append(
            lambda values: power_law(values, p.gamma[channel], low[channel], high[channel])
        )
    if p.linear is not None:
        scale, shift = p.linear
        steps.append(lambda values: values * scale[channel] + shift[channel])
    return steps


def _map_values(image, channel_steps):
    """Applies the functions of each channel to its voxels, in place."""
    if image.dtype != FLOAT16:
        for channel, steps in enumerate(channel_steps):
            image[..., channel] = _chain(image[..., channel], steps)
        return
    # The bit patterns include infinities and NaNs, even if the voxels do not.
    tables = np.empty((len(channel_steps), len(half_precision.ALL_FLOAT16)), FLOAT16)
    with np.errstate(invalid="ignore", over="ignore"):
        for table, steps in zip(tables, channel_steps):
            table[:] = _chain(half_precision.ALL_FLOAT16, steps)
    bits = image.view("<u2").reshape(-1)
    table_offsets = _table_offsets(len(tables), BLOCK // len(tables))
    # By blocks, so that the indices stay in the processor's cache.
    index = np.empty(len(table_offsets), np.intp)
    for first in range(0, len(bits), len(index)):
        block = bits[first : first + len(index)]
        np.add(block, table_offsets[: len(block)], out=index[: len(block)])
        tables.view("<u2").take(index[: len(block)], out=block, mode="clip")


@functools.lru_cache
def _table_offsets(channels, voxels):
    """Where the table of each value's channel begins, int64 [voxels * channels]."""
    return np.tile(np.arange(channels) * len(half_precision.ALL_FLOAT16), voxels)


def _chain(values, steps):
    for step in steps:
        values = step(values)
    return values
