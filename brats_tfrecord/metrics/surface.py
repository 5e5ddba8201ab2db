"""Distances between the surfaces of masks, in millimetres.

The surface of a mask is the mask minus its erosion by the 6-connected cross; what lies beyond the
array counts as background, so voxels at its edge are surface. A distance runs from the centre of
a surface voxel to the centre of the nearest surface voxel of the other mask. This is MedPy's
definition (`medpy.metric.binary`, connectivity 1), the one BraTS participants report with, and
MONAI's without sub-voxels; DeepMind's surface-distance weighs surface elements between voxels
instead and differs slightly.
"""

from dataclasses import dataclass

import numpy as np

from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.metrics.nearest import nearest_distances


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
    found = structure_distances(truth.view(np.uint8), prediction.view(np.uint8), spacing_mm)
    if not found:
        raise ValueError("an empty mask has no surface; expected two masks that are not empty")
    return found[1]


def structure_distances(truth, prediction, spacing_mm):
    """As `surface_distances`, of up to eight structures by one pass.

    Args:
        truth, prediction: uint8 codes [X, Y, Z] of one shape: bit b is the mask of structure b.
        spacing_mm: (x, y, z) voxel spacing in millimetres.

    Returns:
        {1 << b: `SurfaceDistances`} of the structures that neither side leaves empty.
    """
    # Outside the box both are background, which is what lies beyond an array anyway: cropping
    # changes no surface voxel and no distance.
    box = bounding_box(truth, prediction)
    truth, prediction = surface_codes(truth[box]), surface_codes(prediction[box])
    there = nearest_distances(truth, prediction, spacing_mm)
    back = nearest_distances(prediction, truth, spacing_mm)
    return {bit: SurfaceDistances(there[bit], back[bit]) for bit in there}


def hd95(distances):
    """95th percentile (linear interpolation) of the distances of both directions pooled, in mm.

    Huttenlocher et al. (1993) for the partial distance; pooled as MedPy's `hd95` does.
    """
    return float(np.percentile(_pooled(distances), 95))


def hd100(distances):
    """Hausdorff distance: the longest distance of either direction, in mm."""
    return float(max(distances.truth_to_prediction.max(), distances.prediction_to_truth.max()))


def assd(distances):
    """Average symmetric surface distance: mean of the distances of both directions pooled, in mm.

    Heimann et al. (2009); MedPy's `assd` since its version 0.5.
    """
    return float(_pooled(distances).mean())


def surface_codes(codes):
    """Codes uint8 [X, Y, Z] of the surface voxels: bit b kept where mask b has its surface."""
    inner = np.zeros_like(codes)
    # A voxel at the edge of the array has background beyond it: only inner ones can have all six.
    middle, before, after = slice(1, -1), slice(None, -2), slice(2, None)
    core = codes[middle, middle, middle].copy()
    for axis in range(3):
        for side in (before, after):
            core &= codes[tuple(side if axis == other else middle for other in range(3))]
    inner[middle, middle, middle] = core
    return codes & ~inner


def surface_voxels(mask):
    """Returns bool [X, Y, Z]: voxels of `mask` with a face neighbour outside it."""
    return surface_codes(mask.view(np.uint8)).view(bool)


def _pooled(distances):
    return np.concatenate((distances.truth_to_prediction, distances.prediction_to_truth))
