"""How a file's array lies in the world, and what turns it into LPS order and back."""

from dataclasses import dataclass

import nibabel
import numpy as np
from nibabel import orientations

from brats_tfrecord import spec

AFFINE_TOLERANCE_MM = 1e-3
"""How far corresponding corners of two volumes of a case may lie apart."""


@dataclass(frozen=True)
class Geometry:
    """How a file's array lies in the world.

    Attributes:
        shape: (i, j, k) of the array in the file's own order.
        affine: float64 4x4, voxel indices of the file's order -> millimetres RAS+.
        xyzt_units, qform_code, sform_code: as in the file's header, for writing back.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    xyzt_units: int = 2
    qform_code: int = 1
    sform_code: int = 1

    @property
    def orientation(self):
        """Axis codes of the file's order, such as ("R", "A", "S")."""
        return nibabel.aff2axcodes(self.affine)

    @property
    def bare(self):
        """Why the affine says nothing of left and right ("is a bare identity"), or ""."""
        if not self.qform_code and not self.sform_code:
            return "has no orientation code"
        return "is a bare identity" if np.allclose(self.affine, np.eye(4), atol=1e-6) else ""

    @property
    def _to_lps(self):
        return orientations.ornt_transform(
            orientations.io_orientation(self.affine), orientations.axcodes2ornt(spec.ORIENTATION)
        )

    @property
    def lps_shape(self):
        """Shape (X, Y, Z) of the array in LPS order."""
        return tuple(int(self.shape[axis]) for axis in np.argsort(self._to_lps[:, 0]))

    @property
    def lps_affine(self):
        """Affine of the LPS array, float64 4x4, to the same millimetres."""
        return self.affine @ orientations.inv_ornt_aff(self._to_lps, self.shape)

    @property
    def spacing_mm(self):
        """Voxel spacing (X, Y, Z) of the LPS array in millimetres."""
        return tuple(float(v) for v in nibabel.affines.voxel_sizes(self.lps_affine))

    def apart_mm(self, other):
        """How far corners of the two LPS grids, equal in shape, lie apart at most, in mm."""
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

    def shares_grid(self, other):
        """Whether both put the same LPS grid into the world, however their files lie."""
        return self.lps_shape == other.lps_shape and self.apart_mm(other) <= AFFINE_TOLERANCE_MM

    def to_lps(self, array):
        """Reorients `array` [i, j, k, ...] of the file's order to LPS [X, Y, Z, ...]."""
        return orientations.apply_orientation(array, self._to_lps)

    def from_lps(self, array):
        """Undoes `to_lps`: `array` [X, Y, Z, ...] to the file's order [i, j, k, ...]."""
        back = orientations.ornt_transform(
            orientations.axcodes2ornt(spec.ORIENTATION), orientations.io_orientation(self.affine)
        )
        return orientations.apply_orientation(array, back)
