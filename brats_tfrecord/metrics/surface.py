"""Distances between the surfaces of masks, in millimetres.

The surface of a mask is the mask minus its erosion by the 6-connected cross. Everything outside
the array is background, so mask voxels at the edge of the array are surface voxels. Distances are
measured from the centre of a surface voxel to the centre of the nearest surface voxel of the other
mask. This is the definition of MedPy (`medpy.metric.binary`, connectivity 1), which many BraTS
participants use, and of MONAI without sub-voxels. The surface elements of DeepMind's
surface-distance, which differ slightly, are in `metrics.elements`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.metrics.nearest import nearest_distances


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances in mm, float64 1-D, one per surface voxel of the mask that they start from."""

    truth_to_prediction: np.ndarray
    prediction_to_truth: np.ndarray


def surface_distances(
    truth: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """Computes the surface distances of both directions.

    Args:
        truth, prediction: bool [X, Y, Z] of one shape, neither empty.
        spacing_mm: (x, y, z) voxel spacing in millimetres.

    Raises:
        ValueError: a mask is empty and has no surface.
    """
    distances = structure_distances(truth.view(np.uint8), prediction.view(np.uint8), spacing_mm)
    if not distances:
        raise ValueError("an empty mask has no surface; expected two masks that are not empty")
    return distances[1]


def structure_distances(
    truth: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]
) -> dict[int, SurfaceDistances]:
    """Computes the surface distances of up to eight structures in one pass.

    Args:
        truth, prediction: uint8 codes [X, Y, Z] of one shape: bit b is the mask of structure b.
        spacing_mm: (x, y, z) voxel spacing in millimetres.

    Returns:
        {1 << b: `SurfaceDistances`} of the structures that are empty in neither mask.
    """
    # Everything outside an array is background, as is everything outside this box: the crop
    # changes no surface voxel and no distance.
    box = bounding_box(truth, prediction)
    truth, prediction = surface_codes(truth[box]), surface_codes(prediction[box])
    from_truth = nearest_distances(truth, prediction, spacing_mm)
    from_prediction = nearest_distances(prediction, truth, spacing_mm)
    return {bit: SurfaceDistances(from_truth[bit], from_prediction[bit]) for bit in from_truth}


def hd95(distances: SurfaceDistances) -> float:
    """Computes the larger of the two directed 95th percentiles, in mm.

    This is the robust Hausdorff distance of BraTS (Menze et al. 2015, IEEE TMI 34(10)).
    Percentiles are interpolated linearly.
    """
    sides = distances.truth_to_prediction, distances.prediction_to_truth
    return max(float(np.percentile(side, 95)) for side in sides)


def hd95_pooled(distances: SurfaceDistances) -> float:
    """Computes the 95th percentile of the distances of both directions together, in mm.

    This is MedPy's `hd95`, which is mostly smaller than `hd95`. The percentile is interpolated
    linearly.
    """
    return float(np.percentile(_pooled(distances), 95))


def hd100(distances: SurfaceDistances) -> float:
    """Computes the Hausdorff distance, the longest distance of either direction, in mm."""
    return float(max(distances.truth_to_prediction.max(), distances.prediction_to_truth.max()))


def assd(distances: SurfaceDistances) -> float:
    """Computes the average symmetric surface distance in mm.

    The mean of the pooled distances of both directions (Heimann et al. 2009), as in MedPy's
    `assd` since version 0.5.
    """
    return float(_pooled(distances).mean())


def surface_codes(codes: np.ndarray) -> np.ndarray:
    """Clears bit b of the codes uint8 [X, Y, Z] where a voxel is not on the surface of mask b."""
    inner = np.zeros_like(codes)
    # Voxels at the edge of the array have background outside it, so they are never inner voxels.
    middle, before, after = slice(1, -1), slice(None, -2), slice(2, None)
    core = codes[middle, middle, middle].copy()
    for axis in range(3):
        for side in (before, after):
            core &= codes[tuple(side if axis == current else middle for current in range(3))]
    inner[middle, middle, middle] = core
    return codes & ~inner


def _pooled(distances):
    return np.concatenate((distances.truth_to_prediction, distances.prediction_to_truth))
