"""Resampling of volumes and masks to a grid of 1 mm, and back.

Both grids cover the same field of view, corner to corner: if an axis of n voxels is resampled to m
voxels, the centre of the new voxel i lies at (i + 0.5) * n / m - 0.5 on the old axis. The shape
alone therefore defines a grid, and resampling back needs only the original shape. Interpolation is
linear, with the outermost values repeated outside the outermost centres. There is no averaging
where the new voxels are larger: scans finer than 1 mm lose detail, not contrast.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from brats_tfrecord.cohort.geometry import is_one_millimetre
from brats_tfrecord.cohort.header import MAX_VOXELS
from brats_tfrecord.errors import CaseError


def grid_shape(shape: Sequence[int], spacing_mm: Sequence[float], name: str) -> tuple[int, ...]:
    """Computes the shape of the 1 mm grid with the field of view of another grid.

    Args:
        shape: (X, Y, Z) of the other grid.
        spacing_mm: (x, y, z) voxel spacing of the other grid in millimetres.
        name: name of the case, for the error message.

    Returns:
        (X, Y, Z): each extent in millimetres, rounded (halves to even), at least 1. If every
        spacing is within 5 % of 1 mm, `shape` itself, because interpolation would only blur.

    Raises:
        CaseError: the grid would hold more voxels than any head scan.
    """
    if is_one_millimetre(spacing_mm):
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


def volumes_to(shape: Sequence[int], volumes: np.ndarray) -> np.ndarray:
    """Resamples float32 [X, Y, Z, C] linearly to [*shape, C].

    Returns `volumes` itself if it has that shape.
    """
    if volumes.shape[:3] == tuple(shape):
        return volumes
    result = np.empty((*shape, volumes.shape[3]), volumes.dtype)
    for channel in range(volumes.shape[3]):
        result[..., channel] = _linear(volumes[..., channel], shape)
    return result


def classes_to(shape: Sequence[int], classes: np.ndarray) -> np.ndarray:
    """Resamples a mask to the class with the largest linearly interpolated share at each voxel.

    Along a single axis this is nearest-neighbour interpolation. Along several axes it is more
    accurate: among eight voxels of 0.5 mm the majority wins, not one of them. The lower class wins
    if shares are equal.

    Args:
        shape: (X, Y, Z) of the result.
        classes: uint8 [X, Y, Z].

    Returns:
        uint8 [*shape], which contains no class that `classes` does not contain.
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
