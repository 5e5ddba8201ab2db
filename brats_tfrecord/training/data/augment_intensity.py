"""What happens to the intensities of a patch, channel by channel, in float32.

A float16 voxel has 65,536 values at most. What maps values to values (scale, shift, gamma) is
worked out once for each of them and looked up for each voxel: NumPy casts float16 slowly.
"""

import numpy as np
from scipy import ndimage

_HALF = np.dtype("<f2")
_HALVES = np.arange(2**16, dtype="<u2").view(_HALF).astype(np.float32)
"""The float16 of each bit pattern."""


def change(image, drawn):
    """Changes an image in place.

    Args:
        image: float16 or float32 [X, Y, Z, C], in one piece in C order.
        drawn: `augment.Draw`.
    """
    channels = range(image.shape[3])
    for channel in channels:
        steps = _neighbourhood_steps(drawn, channel)
        if steps:
            changed = to_float32(image[..., channel])
            for step in steps:
                changed = step(changed)
            image[..., channel] = changed
    if drawn.gamma is not None or drawn.linear is not None:
        _map_values(image, [_value_steps(drawn, n, image[..., n]) for n in channels])


def blur(voxels, sigma):
    """Gaussian blur of float32 [X, Y, Z]; `sigma` in voxels; the border goes on outside."""
    return ndimage.gaussian_filter(voxels, sigma, mode="nearest", truncate=3)


def lower_resolution(voxels, kept):
    """Keeps the nearest voxels of a grid of `kept` times as many an axis, and fills up linearly."""
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


def add_noise(voxels, seed, deviation):
    """Adds Gaussian noise to float32 [X, Y, Z]; `seed` is an int or a sequence of ints."""
    noise = np.random.default_rng(seed).standard_normal(voxels.shape, np.float32)
    noise *= deviation
    noise += voxels
    return noise


def power_law(values, exponent, low, high):
    """Raises `values`, placed between `low` and `high`, to `exponent`; beyond, they are clipped."""
    if not high > low:
        return values
    span = high - low
    return np.clip((values - low) / span, 0, 1) ** exponent * span + low


def to_float32(voxels):
    """`voxels` [X, Y, Z], float16 or float32, as a float32 array of their own."""
    if voxels.dtype != _HALF:
        return voxels.astype(np.float32)
    out = np.empty(voxels.shape, np.float32)
    for plane, bits in zip(out, voxels.view("<u2")):
        _HALVES.take(bits, out=plane, mode="clip")
    return out


def _neighbourhood_steps(drawn, channel):
    """The drawn transforms that need more than a voxel's value, in order."""
    steps = []
    if drawn.blur is not None:
        steps.append(lambda voxels: blur(voxels, drawn.blur[channel]))
    if drawn.low_resolution is not None:
        steps.append(lambda voxels: lower_resolution(voxels, drawn.low_resolution[channel]))
    if drawn.noise is not None:
        seed, deviation = drawn.noise
        steps.append(lambda voxels: add_noise(voxels, [seed, channel], deviation[channel]))
    return steps


def _value_steps(drawn, channel, voxels):
    """The drawn transforms of values, in order."""
    steps = []
    if drawn.gamma is not None:
        whole = to_float32(voxels)
        low, high = whole.min(), whole.max()
        steps.append(lambda values: power_law(values, drawn.gamma[channel], low, high))
    if drawn.linear is not None:
        scale, shift = drawn.linear
        steps.append(lambda values: values * scale[channel] + shift[channel])
    return steps


def _map_values(image, steps):
    """Applies to every voxel the functions of its channel, in place."""
    if image.dtype != _HALF:
        for channel, of_channel in enumerate(steps):
            image[..., channel] = _chain(image[..., channel], of_channel)
        return
    # Infinities and NaNs are among the bit patterns, if not among the voxels.
    with np.errstate(invalid="ignore", over="ignore"):
        tables = np.stack([_chain(_HALVES, of_channel).astype(_HALF) for of_channel in steps])
    first_of_channel = np.tile(np.arange(len(steps)) * len(_HALVES), image.shape[2])
    # Plane by plane: indices stay in the processor's cache.
    index = np.empty((image.shape[1], len(first_of_channel)), np.intp)
    for plane in image.view("<u2").reshape(len(image), *index.shape):
        np.add(plane, first_of_channel, out=index)
        tables.view("<u2").take(index, out=plane, mode="clip")


def _chain(values, steps):
    for step in steps:
        values = step(values)
    return values
