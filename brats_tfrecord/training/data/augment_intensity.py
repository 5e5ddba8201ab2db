"""Intensity augmentation of a patch, computed in float32, channel by channel.

A float16 image has at most 65,536 different values. Transforms that map values to values (scale,
shift, gamma) are therefore computed once per value and looked up for each voxel, because NumPy
casts float16 slowly.
"""

import functools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from brats_tfrecord.training.data.augment import PatchParameters

_FLOAT16 = np.dtype("<f2")
ALL_FLOAT16 = np.arange(2**16, dtype="<u2").view(_FLOAT16).astype(np.float32)
"""The float16 value of each bit pattern."""

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
    channels = range(image.shape[3])
    kept = channels if parameters.dropped is None else _kept_channels(image, parameters.dropped)
    for channel in kept:
        steps = _neighbourhood_steps(parameters, channel)
        if steps:
            image[..., channel] = _chain(to_float32(image[..., channel]), steps)
    if parameters.gamma is not None or parameters.linear is not None:
        _map_values(image, [_value_steps(parameters, n, image[..., n]) for n in channels])
    for channel in set(channels).difference(kept):
        image[..., channel] = 0


def blur(voxels: np.ndarray, sigma: float) -> np.ndarray:
    """Applies Gaussian blur to float32 [X, Y, Z]; `sigma` in voxels, border values repeated."""
    return ndimage.gaussian_filter(voxels, sigma, mode="nearest", truncate=3)


def lower_resolution(voxels: np.ndarray, kept: float) -> np.ndarray:
    """Samples [X, Y, Z] down to a share `kept` of each axis, nearest, and linearly up again."""
    few = np.maximum(1, np.round(np.multiply(voxels.shape, kept))).astype(int)
    nearest = [((np.arange(n) + 0.5) * full / n).astype(int) for n, full in zip(few, voxels.shape)]
    return ndimage.zoom(
        voxels[np.ix_(*nearest)],
        voxels.shape / few,
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


def to_float32(voxels: np.ndarray) -> np.ndarray:
    """Copies float16 or float32 [X, Y, Z] to a float32 array."""
    if voxels.dtype != _FLOAT16:
        return voxels.astype(np.float32)
    out = np.empty(voxels.shape, np.float32)
    for plane, bits in zip(out, voxels.view("<u2")):
        ALL_FLOAT16.take(bits, out=plane, mode="clip")
    return out


def _kept_channels(image, dropped):
    """The channels of [X, Y, Z, C] with values, without the dropped ones unless none is left."""
    # Plane by plane, because the first one nearly always has values.
    present = [n for n in range(image.shape[3]) if any(plane.any() for plane in image[..., n])]
    return [n for n in present if n not in dropped] or present


def _neighbourhood_steps(parameters, channel):
    """The transforms that need more than the value of a voxel, in order."""
    steps = []
    if parameters.blur is not None:
        steps.append(lambda voxels: blur(voxels, parameters.blur[channel]))
    if parameters.low_resolution is not None:
        steps.append(lambda voxels: lower_resolution(voxels, parameters.low_resolution[channel]))
    if parameters.noise is not None:
        seed, deviation = parameters.noise
        steps.append(lambda voxels: add_noise(voxels, [seed, channel], deviation[channel]))
    return steps


def _value_steps(parameters, channel, voxels):
    """The transforms that map values to values, in order."""
    steps = []
    if parameters.gamma is not None:
        channel_values = to_float32(voxels)
        low, high = channel_values.min(), channel_values.max()
        steps.append(lambda values: power_law(values, parameters.gamma[channel], low, high))
    if parameters.linear is not None:
        scale, shift = parameters.linear
        steps.append(lambda values: values * scale[channel] + shift[channel])
    return steps


def _map_values(image, channel_steps):
    """Applies the functions of each channel to its voxels, in place."""
    if image.dtype != _FLOAT16:
        for channel, steps in enumerate(channel_steps):
            image[..., channel] = _chain(image[..., channel], steps)
        return
    # The bit patterns include infinities and NaNs, even if the voxels do not.
    tables = np.empty((len(channel_steps), len(ALL_FLOAT16)), _FLOAT16)
    with np.errstate(invalid="ignore", over="ignore"):
        for table, steps in zip(tables, channel_steps):
            table[:] = _chain(ALL_FLOAT16, steps)
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
    return np.tile(np.arange(channels) * len(ALL_FLOAT16), voxels)


def _chain(values, steps):
    for step in steps:
        values = step(values)
    return values
