"""Cuts a fixed window out of an array, and puts it back."""

import numpy as np


def crop(array, origin, shape):
    """Cuts the window [origin, origin + shape) out of the first three axes.

    Args:
        array: [X, Y, Z, ...].
        origin: (x, y, z) of the window's first voxel; may be negative.
        shape: (X, Y, Z) of the window; may reach beyond the array.

    Returns:
        A new array [*shape, ...]; zero where the window leaves the array.
    """
    window = np.zeros((*shape, *array.shape[3:]), array.dtype)
    inside, outside = _overlap(array.shape, origin, shape)
    window[inside] = array[outside]
    return window


def uncrop(window, origin, shape, fill=0):
    """Undoes `crop`: an array [*shape, ...] with `window` at `origin` and `fill` elsewhere."""
    array = np.full((*shape, *window.shape[3:]), fill, window.dtype)
    inside, outside = _overlap(shape, origin, window.shape)
    array[outside] = window[inside]
    return array


def outside(shape, origin, window_shape):
    """Bool [X, Y, Z], true where a voxel of an array of `shape` lies outside the window."""
    result = np.ones(shape[:3], bool)
    result[_overlap(shape, origin, window_shape)[1]] = False
    return result


def fits(shape, origin, window_shape):
    """Whether the whole window lies within an array of `shape`."""
    return all(0 <= first and first + size <= length
               for length, first, size in zip(shape, origin, window_shape))


def _overlap(shape, origin, window_shape):
    """Slices of the common voxels, within the window and within the array."""
    inside, outside = [], []
    for length, first, size in zip(shape, origin, window_shape):
        low, high = max(first, 0), max(min(first + size, length), max(first, 0))
        outside.append(slice(low, high))
        inside.append(slice(low - first, high - first))
    return tuple(inside), tuple(outside)
