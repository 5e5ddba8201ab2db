"""Windows on arrays: their position, the crop, and its inverse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def centred(
    box: Sequence[slice], shape: Sequence[int], window_shape: Sequence[int]
) -> tuple[int, ...]:
    """Computes the position of a window that is centred on a box.

    Along each axis, the window starts at floor((box start + box stop - window size) / 2): where
    box and window differ by an odd number of voxels, the extra voxel is at the far end. The window
    is then shifted as little as possible until it lies within the array or, if the array is
    shorter than the window, until the array lies within it. The crop therefore neither pads nor
    loses voxels that a shift can keep.

    Args:
        box: one slice per axis, as returned by `boxes.bounding_box`.
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


def crop(array: np.ndarray, origin: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Crops the first three axes to the window [origin, origin + shape).

    Args:
        array: [X, Y, Z, ...].
        origin: (x, y, z) of the window's first voxel; may be negative.
        shape: (X, Y, Z) of the window, which may extend beyond the array.

    Returns:
        [*shape, ...], 0 outside the array. A view if the window lies within the array.
    """
    if fits(array.shape, origin, shape):
        return array[tuple(slice(first, first + size) for first, size in zip(origin, shape))]
    window = np.zeros((*shape, *array.shape[3:]), array.dtype)
    inside, outside = overlap(array.shape, origin, shape)
    window[inside] = array[outside]
    return window


def uncrop(
    window: np.ndarray,
    origin: Sequence[int],
    shape: Sequence[int],
    fill: float | Sequence[float] = 0,
) -> np.ndarray:
    """Inverts `crop`.

    Args:
        window: [X, Y, Z, ...].
        origin: (x, y, z) of the window's first voxel in the array; may be negative.
        shape: (X, Y, Z) of the array.
        fill: value outside the window, one for all channels or one per channel of [X, Y, Z, C].

    Returns:
        [*shape, ...] in the dtype of the window.
    """
    array = np.full((*shape, *window.shape[3:]), fill, window.dtype)
    inside, outside = overlap(shape, origin, window.shape)
    array[outside] = window[inside]
    return array


def fits(shape: Sequence[int], origin: Sequence[int], window_shape: Sequence[int]) -> bool:
    """Returns whether the whole window lies within an array of `shape`."""
    return all(
        first >= 0 and first + size <= length
        for length, first, size in zip(shape, origin, window_shape)
    )


def overlap(
    shape: Sequence[int], origin: Sequence[int], window_shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Returns the voxels that a window and an array of `shape` share.

    Returns:
        Three slices of the window, and the three slices of the array for the same voxels.
    """
    inside, outside = [], []
    for length, first, size in zip(shape, origin, window_shape):
        low, high = max(first, 0), max(min(first + size, length), max(first, 0))
        outside.append(slice(low, high))
        inside.append(slice(low - first, high - first))
    return tuple(inside), tuple(outside)
