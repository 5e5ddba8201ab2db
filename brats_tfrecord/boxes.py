"""Computes bounding boxes of masks."""

import numpy as np


def bounding_box(*masks: np.ndarray) -> tuple[slice, ...]:
    """Computes the smallest box that contains all masks.

    Args:
        masks: bool or uint8 arrays of one shape; voxels that are not 0 are inside.

    Returns:
        One slice per axis; empty slices if all masks are empty.
    """
    box = [slice(None)] * masks[0].ndim
    for axis in range(len(box)):
        # Each axis is searched only within the slices of the axes before it. The maximum of bytes
        # is many times faster than `any`, and needs no copy of the union.
        other_axes = tuple(index for index in range(len(box)) if index != axis)
        inside = [mask.view(np.uint8)[tuple(box)].max(axis=other_axes, initial=0) for mask in masks]
        filled = np.flatnonzero(np.bitwise_or.reduce(inside))
        box[axis] = slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 0)
    return tuple(box)
