"""Intensity augmentation of a patch, computed in float32, channel by channel.

A float16 image has at most 65,536 different values. Transforms that map values to values (contrast,
gamma, scale, shift) are therefore computed once per value and looked up for each voxel, because
NumPy casts float16 slowly.
"""

import functools

import numpy as np

from brats_tfrecord.training.data import filters, half_precision
from brats_tfrecord.training.data.augment import PatchParameters
from brats_tfrecord.training.data.half_precision import FLOAT16, to_float32

BLOCK = 2**17
"""Values that are looked up by one call: fewer calls hold the interpreter lock more often, and the
indices of more values, 8 bytes each, do not stay in the processor's cache."""


def augment_intensities(image: np.ndarray, parameters: PatchParameters) -> None:
    """Applies the drawn intensity transforms in place.

    If channels may be dropped, a channel that is 0 throughout the patch belongs to a missing
    modality and stays 0. If only such channels would be left, none is dropped.

    Args:
        image: float16 or float32 [X, Y, Z, C], contiguous in C order.
        parameters: which transforms to apply, and how strongly.
    """
    p, low, high, mean = parameters, None, None, None
    channels = range(image.shape[3])
    kept = channels if p.dropped is None else _kept_channels(image, p.dropped)
    for channel in kept:
        steps = _neighbourhood_steps(p, channel, image.dtype)
        if steps:
            image[..., channel] = _chain(to_float32(image[..., channel]), steps)
    if not (p.contrast is None and p.inverted_gamma is None and p.gamma is None):
        low, high = extremes(image)
    if p.contrast is not None:
        mean = approximate_mean(image)
    value_steps = [_value_steps(p, n, low, high, mean) for n in channels]
    if any(value_steps):
        _map_values(image, value_steps)
    for channel in set(channels).difference(kept):
        image[..., channel] = 0


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
    low, high = _reduce(np.maximum, unsigned), _reduce(np.maximum, signed)
    if (low < 2**15).any():
        low = np.where(low < 2**15, _reduce(np.minimum, unsigned), low)
    if (high < 0).any():
        high = np.where(high < 0, _reduce(np.minimum, signed), high)
    return low.view(FLOAT16).astype(np.float32), high.view(FLOAT16).astype(np.float32)


def _reduce(function, image):
    """Reduces [X, Y, Z, C] to [C]; first over X, where many values lie side by side."""
    rows = function.reduce(image.reshape(len(image), -1))
    return function.reduce(rows.reshape(-1, image.shape[3]))


def _kept_channels(image, dropped):
    """The channels of [X, Y, Z, C] with values, without the dropped ones unless none is left."""
    # Plane by plane, because the first one nearly always has values.
    present = [n for n in range(image.shape[3]) if any(plane.any() for plane in image[..., n])]
    return [n for n in present if n not in dropped] or present


def _neighbourhood_steps(parameters, channel, dtype):
    """The transforms that need more than the value of a voxel, in order."""
    p, steps = parameters, []
    if p.blur is not None and p.blur[channel] > 0:
        blur = filters.fast_blur if p.fast else filters.blur
        steps.append(lambda voxels: blur(voxels, p.blur[channel]))
    if p.low_resolution is not None and p.low_resolution[channel] < 1:
        # Images of float32 keep the values that earlier versions computed, to the last bit.
        enlarge = filters.enlarge_by_axis if dtype == FLOAT16 else filters.enlarge_at_once
        kept = p.low_resolution[channel]
        steps.append(lambda voxels: filters.lower_resolution(voxels, kept, enlarge))
    if p.noise is not None and p.noise[1][channel] > 0:
        add_noise = filters.add_fast_noise if p.fast else filters.add_noise
        seed, deviation = p.noise
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
