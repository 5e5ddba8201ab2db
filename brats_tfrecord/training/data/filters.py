"""Blur, low resolution and noise of one channel, float32 [X, Y, Z].

The fast forms are several times as fast as the others, and their results differ slightly.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage, special

TRUNCATE = 3
"""Where the Gaussian of a blur ends, in standard deviations."""

PLANES = 8
"""Planes of X that `fast_blur` computes at once: they stay in the processor's cache."""

FEW_PLANES = 4
"""The same for `enlarge_by_axis`, in float64."""


def blur(voxels: np.ndarray, sigma: float) -> np.ndarray:
    """Applies Gaussian blur, computed in float64; `sigma` in voxels, border values repeated."""
    return ndimage.gaussian_filter(voxels, sigma, mode="nearest", truncate=TRUNCATE)


def fast_blur(voxels: np.ndarray, sigma: float) -> np.ndarray:
    """Applies the Gaussian blur of `blur`, computed in float32."""
    radius = int(TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    weights = (weights / (2 * weights.sum() - 1)).astype(np.float32)
    padded = np.pad(voxels, radius, mode="edge")
    out = np.empty_like(voxels)
    for x in range(0, len(voxels), PLANES):
        part = padded[x : x + PLANES + 2 * radius]
        for axis in range(3):
            part = _weighted_sum(part, weights, axis)
        out[x : x + PLANES] = part
    return out


def lower_resolution(voxels: np.ndarray, kept: float, enlarge: Callable) -> np.ndarray:
    """Samples down to a share `kept` of each axis, nearest, and linearly up again.

    `enlarge` is one of the two functions below.
    """
    few = np.maximum(1, np.round(np.multiply(voxels.shape, kept))).astype(int)
    nearest = [((np.arange(n) + 0.5) * full / n).astype(int) for n, full in zip(few, voxels.shape)]
    return enlarge(voxels[np.ix_(*nearest)], voxels.shape)


def enlarge_by_axis(voxels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Interpolates [x, y, z] to a larger shape, one axis after the other.

    Rounded to float16, the values are those of `enlarge_at_once`.
    """
    along_x, along_y, along_z = (_neighbours(*pair) for pair in zip(voxels.shape, shape))
    # By a few planes, so that the operands stay in the processor's cache.
    planes = np.empty((len(voxels), *shape[1:]))
    for x in range(0, len(voxels), FEW_PLANES):
        part = _interpolate(voxels[x : x + FEW_PLANES].astype(np.float64), 2, *along_z)
        planes[x : x + FEW_PLANES] = _interpolate(part, 1, *along_y)
    out = np.empty(shape, voxels.dtype)
    for x in range(0, len(out), FEW_PLANES):
        here = [values[x : x + FEW_PLANES] for values in along_x]
        out[x : x + FEW_PLANES] = _interpolate(planes, 0, *here)
    return out


def enlarge_at_once(voxels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Interpolates [x, y, z] to a larger shape with a single rounding."""
    return ndimage.zoom(
        voxels,
        np.divide(shape, voxels.shape),
        order=1,
        mode="nearest",
        prefilter=False,
        grid_mode=True,
    )


def add_noise(voxels: np.ndarray, seed: int | Sequence[int], deviation: float) -> np.ndarray:
    """Adds Gaussian noise."""
    noise = np.random.default_rng(seed).standard_normal(voxels.shape, np.float32)
    noise *= deviation
    noise += voxels
    return noise


def add_fast_noise(voxels: np.ndarray, seed: int | Sequence[int], deviation: float) -> np.ndarray:
    """Adds Gaussian noise of 65,536 different values, up to 4.3 standard deviations."""
    numbers = np.random.default_rng(seed).integers(2**16, size=voxels.shape, dtype=np.uint16)
    noise = (_normal_quantiles() * np.float32(deviation)).take(numbers)
    noise += voxels
    return noise


def _weighted_sum(voxels, weights, axis):
    """Correlates with the symmetric kernel of weights [radius + 1], without the borders."""
    radius = len(weights) - 1
    inner = voxels.shape[axis] - 2 * radius

    def shifted(first):
        return voxels[(slice(None),) * axis + (slice(first, first + inner),)]

    out = shifted(radius) * weights[0]
    for distance in range(1, radius + 1):
        pair = shifted(radius - distance) + shifted(radius + distance)
        pair *= weights[distance]
        out += pair
    return out


def _neighbours(few, many):
    """Where each of `many` voxels lies between `few`: (voxel, next voxel, share of the next)."""
    position = np.clip((np.arange(many) + 0.5) * (few / many) - 0.5, 0, few - 1)
    low = position.astype(int)
    return low, np.minimum(low + 1, few - 1), position - low


def _interpolate(voxels, axis, low, high, share):
    """Interpolates [x, y, z] along an axis between the neighbours of `_neighbours`."""
    share = share.reshape(-1, *[1] * (2 - axis))
    return voxels.take(low, axis) * (1 - share) + voxels.take(high, axis) * share


@functools.cache
def _normal_quantiles():
    """The normal distribution as equally likely values, float32 [65536]."""
    return special.ndtri((np.arange(2**16) + 0.5) / 2**16).astype(np.float32)
