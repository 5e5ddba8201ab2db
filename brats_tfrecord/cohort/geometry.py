"""The geometry of a NIfTI file: shape, affine, and the conversion to LPS order and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import nibabel
import numpy as np
from nibabel import orientations

from brats_tfrecord import spec

_AFFINE_TOLERANCE_MM = 1e-3
"""Largest distance between corresponding corners of two volumes that share a grid."""

_SPACING_TOLERANCE_MM = 0.05
_LPS = orientations.axcodes2ornt(spec.ORIENTATION)


def is_one_millimetre(spacing_mm: Iterable[float]) -> bool:
    """Returns whether every voxel spacing is within 5 % of 1 mm."""
    return all(abs(size - 1) <= _SPACING_TOLERANCE_MM for size in spacing_mm)


@dataclass(frozen=True)
class Geometry:
    """The grid of a file's array and its position in the world.

    Attributes:
        shape: (i, j, k) of the array in the file's own axis order.
        affine: float64 4x4, voxel indices in the file's order -> millimetres RAS+.
        xyzt_units, qform_code, sform_code: header fields, kept for writing back.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    xyzt_units: int = 2
    qform_code: int = 1
    sform_code: int = 1

    @property
    def orientation(self) -> tuple[str, ...]:
        """Axis codes of the file's order, such as ("R", "A", "S")."""
        return nibabel.aff2axcodes(self.affine)

    @property
    def bare(self) -> str:
        """The reason why the affine cannot tell left from right ("is a bare identity"), or ""."""
        if not self.qform_code and not self.sform_code:
            return "has no orientation code"
        return "is a bare identity" if np.allclose(self.affine, np.eye(4), atol=1e-6) else ""

    @property
    def caveat(self) -> str:
        """The reason to doubt left and right in images of this geometry, for people, or ""."""
        if not self.bare:
            return ""
        return (
            f"affine of the images {self.bare}: taken as it is, but left and right may be swapped"
        )

    @property
    def lps_shape(self) -> tuple[int, int, int]:
        """Shape (X, Y, Z) of the array in LPS order."""
        x, y, z = (int(self.shape[axis]) for axis in np.argsort(self._to_lps[:, 0]))
        return x, y, z

    @property
    def lps_affine(self) -> np.ndarray:
        """Affine of the LPS array, float64 4x4, to the same millimetres."""
        return self.affine @ orientations.inv_ornt_aff(self._to_lps, self.shape)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing (X, Y, Z) of the LPS array in millimetres."""
        x, y, z = (float(size) for size in nibabel.affines.voxel_sizes(self.lps_affine))
        return x, y, z

    def apart_mm(self, other: Geometry) -> float:
        """Returns the largest coordinate difference between corners of two LPS grids of one shape.

        The unit is millimetres.
        """
        corners = np.array(
            [
                [x, y, z, 1]
                for x in (0, self.lps_shape[0])
                for y in (0, self.lps_shape[1])
                for z in (0, self.lps_shape[2])
            ],
            np.float64,
        )
        return float(np.abs(corners @ (self.lps_affine - other.lps_affine).T).max())

    def shares_grid(self, other: Geometry) -> bool:
        """Returns whether both describe the same LPS grid, whatever their files' axis order."""
        return self.lps_shape == other.lps_shape and self.apart_mm(other) <= _AFFINE_TOLERANCE_MM

    def to_lps(self, array: np.ndarray) -> np.ndarray:
        """Reorients `array` [i, j, k, ...] of the file's order to LPS [X, Y, Z, ...]."""
        return orientations.apply_orientation(array, self._to_lps)

    def from_lps(self, array: np.ndarray) -> np.ndarray:
        """Undoes `to_lps`: `array` [X, Y, Z, ...] to the file's order [i, j, k, ...]."""
        own = orientations.io_orientation(self.affine)
        return orientations.apply_orientation(array, orientations.ornt_transform(_LPS, own))

    @property
    def _to_lps(self):
        return orientations.ornt_transform(orientations.io_orientation(self.affine), _LPS)
