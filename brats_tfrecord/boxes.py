"""The smallest box around what a mask holds."""

import numpy as np


def bounding_box(*masks: np.ndarray) -> tuple[slice, ...]:
    """Finds the smallest box that holds every mask.

    Args:
        masks: bool or uint8 arrays of one shape; voxels that are not 0 are inside.

    Returns:
        One slice an axis; empty slices where all masks are empty.
    """
    box = [slice(None)] * masks[0].ndim
    for axis in range(len(box)):
        # Each axis looks only at what the axes before it have left. The maximum of bytes is many
        # times faster than `any`, and needs no copy of the union.
        others = tuple(other for other in range(len(box)) if other != axis)
        inside = [mask.view(np.uint8)[tuple(box)].max(axis=others, initial=0) for mask in masks]
        filled = np.flatnonzero(np.bitwise_or.reduce(inside))
        box[axis] = slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 0)
    return tuple(box)
