"""Distances between the surfaces of two masks, in millimetres.

The surface of a mask is the mask minus its erosion by the 6-connected cross; what lies beyond the
array counts as background, so voxels at its edge are surface. A distance runs from the centre of
a surface voxel to the centre of the nearest surface voxel of the other mask. This is MedPy's
definition (`medpy.metric.binary.hd95`, connectivity 1), the one BraTS participants report with;
DeepMind's surface-distance weighs surface elements between voxels instead and differs slightly.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_CROSS = ndimage.generate_binary_structure(3, 1)


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances in mm, float64, one entry a surface voxel of the mask that they start from."""

    truth_to_prediction: np.ndarray
    prediction_to_truth: np.ndarray


def surface_distances(truth, prediction, spacing_mm):
    """Measures both directions once, for every figure that is made of them.

    Args:
        truth, prediction: bool [X, Y, Z] of one shape, neither empty.
        spacing_mm: (x, y, z) voxel spacing in millimetres.

    Raises:
        ValueError: a mask is empty; its surface, and so the distance, is not defined.
    """
    if not (truth.any() and prediction.any()):
        raise ValueError("an empty mask has no surface; expected two masks that are not empty")
    box = bounding_box(truth | prediction)
    # Outside the box both masks are background, which is what erosion takes for granted beyond
    # an array: cropping changes no surface voxel and no distance.
    truth_surface = surface_voxels(truth[box])
    prediction_surface = surface_voxels(prediction[box])
    return SurfaceDistances(
        _distance_to(prediction_surface, spacing_mm)[truth_surface],
        _distance_to(truth_surface, spacing_mm)[prediction_surface],
    )


def hd95(distances):
    """95th percentile (linear interpolation) of the distances of both directions pooled, in mm."""
    pooled = np.concatenate((distances.truth_to_prediction, distances.prediction_to_truth))
    return float(np.percentile(pooled, 95))


def surface_voxels(mask):
    """Returns bool [X, Y, Z]: voxels of `mask` with a face neighbour outside it."""
    return mask & ~ndimage.binary_erosion(mask, _CROSS)


def bounding_box(mask):
    """Returns the slices of the smallest box that holds `mask`; empty slices if it is empty."""
    slices = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        slices.append(slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 0))
    return tuple(slices)


def _distance_to(surface, spacing_mm):
    """Distance in mm, float64 [X, Y, Z], of every voxel to the nearest voxel of `surface`."""
    return ndimage.distance_transform_edt(~surface, sampling=spacing_mm)
