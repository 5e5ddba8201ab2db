"""Places a window on an array, cuts it out, and puts it back."""

import numpy as np


def centred(box, shape, window_shape):
    """Where a window goes to have a box at its centre.

    An axis at a time: the window's first voxel is floor((first + stop - size) / 2), so that where
    box and window differ by an odd number, the odd voxel lies at the far end. Then it is shifted
    as little as needed for the window to lie within the array, where the array is at least as
    long, and for the array to lie within the window, where it is shorter: neither padding nor
    loss that a shift can avoid.

    Args:
        box: one slice an axis, as from `boxes.bounding_box`.
        shape: (X, Y, Z) of the array.
        window_shape: (X, Y, Z) of the window.

    Returns:
        (x, y, z) of the window's first voxel; negative where the array is shorter.
    """
    origin = []
    for side, length, size in zip(box, shape, window_shape):
        low, high = sorted((0, length - size))
        origin.append(min(max((side.start + side.stop - size) // 2, low), high))
    return tuple(origin)


def crop(array, origin, shape):
    """Cuts the window [origin, origin + shape) out of the first three axes.

    Args:
        array: [X, Y, Z, ...].
        origin: (x, y, z) of the window's first voxel; may be negative.
        shape: (X, Y, Z) of the window; may reach beyond the array.

    Returns:
        [*shape, ...]; zero where the window leaves the array, a view where it does not.
    """
    if fits(array.shape, origin, shape):
        return array[tuple(slice(first, first + size) for first, size in zip(origin, shape))]
    window = np.zeros((*shape, *array.shape[3:]), array.dtype)
    inside, outside = overlap(array.shape, origin, shape)
    window[inside] = array[outside]
    return window


def uncrop(window, origin, shape, fill=0):
    """Undoes `crop`: an array [*shape, ...] with `window` at `origin` and `fill` elsewhere.

    `fill` is one value or, for [X, Y, Z, C], one for each channel.
    """
    array = np.full((*shape, *window.shape[3:]), fill, window.dtype)
    inside, outside = overlap(shape, origin, window.shape)
    array[outside] = window[inside]
    return array


def fits(shape, origin, window_shape):
    """Whether the whole window lies within an array of `shape`."""
    return all(
        first >= 0 and first + size <= length
        for length, first, size in zip(shape, origin, window_shape)
    )


def overlap(shape, origin, window_shape):
    """Slices of the voxels common to a window and an array of `shape`: (in window, in array)."""
    inside, outside = [], []
    for length, first, size in zip(shape, origin, window_shape):
        low, high = max(first, 0), max(min(first + size, length), max(first, 0))
        outside.append(slice(low, high))
        inside.append(slice(low - first, high - first))
    return tuple(inside), tuple(outside)


def _ends(line):
    used = np.flatnonzero(line)
    return (int(used[0]), int(used[-1]) + 1) if used.size else (0, line.size)
