"""Volumes and masks onto a grid of 1 mm, and back.

Grids share the field of view, corner to corner: an axis of n voxels that becomes one of m has
scale n / m, and the centre of its voxel i lies at (i + 0.5) * n / m - 0.5 of the old axis. So a
grid is known by its shape alone, and the way back needs nothing else. Interpolation is linear;
beyond the outermost centres the nearest one counts. Where the new voxels are larger, nothing is
averaged: scans finer than 1 mm lose detail, not contrast.
"""

import numpy as np
from scipy import ndimage

from brats_tfrecord.cohort.header import MAX_VOXELS
from brats_tfrecord.cohort.nifti import SPACING_TOLERANCE
from brats_tfrecord.errors import CaseError


def grid_shape(shape, spacing_mm, name):
    """Shape of the 1 mm grid with the field of view of another.

    Args:
        shape: (X, Y, Z) voxels.
        spacing_mm: (X, Y, Z) millimetres.
        name: the case, for the error.

    Returns:
        (X, Y, Z): each extent in millimetres, rounded (halves to even), at least 1; `shape` itself
        where every spacing is within 5 % of 1 mm, for interpolation would blur for nothing.

    Raises:
        CaseError: the grid would hold more voxels than any head scan.
    """
    if all(abs(size - 1) <= SPACING_TOLERANCE for size in spacing_mm):
        return tuple(shape)
    grid = tuple(max(round(n * size), 1) for n, size in zip(shape, spacing_mm))
    if grid[0] * grid[1] * grid[2] > MAX_VOXELS:
        spacing = " x ".join(f"{size:.3g}" for size in spacing_mm)
        raise CaseError(
            f"{name}: {'x'.join(map(str, shape))} voxels of {spacing} mm make a 1 mm "
            f"grid of {'x'.join(map(str, grid))}; expected at most {MAX_VOXELS:,} "
            "voxels, repair the spacing in its headers"
        )
    return grid


def volumes_to(shape, volumes):
    """Resamples float32 [X, Y, Z, C] linearly to [*shape, C]; the same array if it has `shape`."""
    if volumes.shape[:3] == tuple(shape):
        return volumes
    result = np.empty((*shape, volumes.shape[3]), volumes.dtype)
    for channel in range(volumes.shape[3]):
        result[..., channel] = _linear(volumes[..., channel], shape)
    return result


def classes_to(shape, classes):
    """Resamples a mask: the class with the largest linearly interpolated share at each voxel.

    Along one axis that is the nearest neighbour. Along more it is better: of voxels of 0.5 mm the
    majority of eight wins, where the nearest neighbour is one of them. Of equal shares the lower
    class wins.

    Args:
        shape: (X, Y, Z) of the result.
        classes: uint8 [X, Y, Z].

    Returns:
        uint8 [*shape]; no class that `classes` lacks.
    """
    if classes.shape == tuple(shape):
        return classes
    result = np.zeros(shape, np.uint8)
    largest = np.full(shape, -1, np.float32)
    for class_id in np.unique(classes):
        share = _linear((classes == class_id).astype(np.float32), shape)
        larger = share > largest
        result[larger] = class_id
        largest[larger] = share[larger]
    return result


def _linear(volume, shape):
    zoom = [new / old for old, new in zip(volume.shape, shape)]
    return ndimage.zoom(volume, zoom, order=1, mode="nearest", grid_mode=True)
