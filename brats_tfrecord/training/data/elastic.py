"""Elastic deformation by a coarse grid of control points: a cubic B-spline (Rueckert et al. 1999).

The field is smooth (its second derivatives are continuous) and nowhere larger than the largest
displacement of a control point. It does not fold if these are below 0.4 of the distance between two
of them (Choi and Lee 2000).
"""

from collections.abc import Sequence

import numpy as np

_BEYOND = 3
"""Control points minus the intervals between them that lie over the patch."""


def in_crop_voxels(
    displacements: np.ndarray, matrix: np.ndarray, patch_shape: Sequence[int]
) -> np.ndarray:
    """Converts displacements of control points from their own unit to voxels of the crop.

    Args:
        displacements: [3, G, G, G] along the axes of the patch, in distances of control points.
        matrix: [3, 3], from patch to crop axes.
        patch_shape: (X, Y, Z).

    Returns:
        float64 [3, G, G, G] along the axes of the crop.
    """
    distances = np.subtract(patch_shape, 1) / (displacements.shape[1] - _BEYOND)
    return np.tensordot(matrix * distances, displacements, axes=1)


def reach(points: np.ndarray) -> np.ndarray:
    """Returns the largest displacement along each axis [3] of control points [3, G, G, G]."""
    return np.abs(points).max(axis=(1, 2, 3))


class Displacement:
    """Function (slice of x) -> displacement of these planes of a patch, [3, x, Y, Z]."""

    def __init__(self, points: np.ndarray, patch_shape: Sequence[int], dtype: np.dtype):
        """Spreads the control points [3, G, G, G] evenly over a patch of (X, Y, Z) voxels.

        The first and the last voxel of an axis lie at its second and its last but one point.
        """
        self._points = points.astype(dtype)
        x, y, z = (_cubic_weights(n, points.shape[1]).astype(dtype) for n in patch_shape)
        self._x, self._y, self._z = x, y, np.ascontiguousarray(z.T)

    def __call__(self, block: slice) -> np.ndarray:
        planes = np.einsum("xg,aghk->axhk", self._x[block], self._points)
        return self._y @ planes @ self._z


def _cubic_weights(voxels: int, points: int) -> np.ndarray:
    """Returns the weight of each control point in each voxel of an axis, [voxels, points]."""
    position = np.linspace(0, points - _BEYOND, voxels)
    first = np.minimum(position.astype(int), points - _BEYOND - 1)
    t = position - first
    weights = np.zeros((voxels, points))
    cubic = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for n, weight in enumerate(cubic):
        weights[np.arange(voxels), first + n] = weight / 6
    return weights
