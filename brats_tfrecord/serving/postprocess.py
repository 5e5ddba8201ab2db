"""Corrections of predicted label maps; `tuning` chooses their thresholds on validation cases."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from brats_tfrecord import spec
from brats_tfrecord.boxes import bounding_box

NEIGHBOURS = ndimage.generate_binary_structure(3, 3)
"""Voxels that touch by a face, edge or corner (26 neighbours) are of one component."""

REPLACEMENTS = {"WT": spec.BACKGROUND, "TC": spec.ED, "ET": spec.NCR}
"""Region -> class of the voxels that are removed from it: the class that surrounds the region."""


@dataclass(frozen=True)
class PostProcessing:
    """Thresholds of the corrections of a predicted label map; by default all are off.

    Attributes:
        min_enhancing_voxels: enhancing tumour of fewer voxels than this in the whole case is
            replaced by necrosis (Isensee et al. 2020, BraTS 2020). Counted on the recipe's grid,
            whose voxels measure about 1 mm³. 0: off.
        min_component_mm3: for WT, TC and ET, the volume below which a connected component
            (26 neighbours) is removed from the region. The largest component of a region is
            always kept. 0: off.
    """

    min_enhancing_voxels: int = 0
    min_component_mm3: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def to_json(self) -> dict[str, Any]:
        """Returns the thresholds as a dict of JSON types, the inverse of `from_json`."""
        return {**dataclasses.asdict(self), "min_component_mm3": list(self.min_component_mm3)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "PostProcessing":
        """Makes the object from the dict of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: a field is missing or has an invalid value.
        """
        whole, core, enhancing = map(float, value["min_component_mm3"])
        return cls(int(value["min_enhancing_voxels"]), (whole, core, enhancing))

    def text(self) -> str:
        """Describes the corrections in one line; "none" if all are off."""
        parts = []
        if self.min_enhancing_voxels:
            parts.append(f"fewer than {self.min_enhancing_voxels} voxels of ET become NCR/NET")
        parts += [
            f"components of {region} below {min_mm3:g} mm³ are removed"
            for region, min_mm3 in zip(spec.REGIONS, self.min_component_mm3)
            if min_mm3
        ]
        return "; ".join(parts) or "none"

    @property
    def is_off(self) -> bool:
        """Whether all corrections are off."""
        return self == PostProcessing()

    def without_small_enhancing_tumour(self, classes: np.ndarray) -> np.ndarray:
        """Replaces the enhancing tumour by necrosis if it has too few voxels.

        Args:
            classes: uint8 [X, Y, Z] canonical classes on the recipe's grid.

        Returns:
            uint8 [X, Y, Z]; `classes` itself if it has enough voxels.
        """
        enhancing = classes == spec.ET
        if np.count_nonzero(enhancing) >= self.min_enhancing_voxels:
            return classes
        return np.where(enhancing, np.uint8(spec.NCR), classes)

    def without_small_components(
        self, classes: np.ndarray, spacing_mm: Sequence[float]
    ) -> np.ndarray:
        """Removes small components from WT, then TC, then ET.

        Args:
            classes: uint8 [X, Y, Z] canonical classes.
            spacing_mm: (x, y, z) voxel spacing in millimetres.

        Returns:
            uint8 [X, Y, Z]; `classes` itself if nothing changes.
        """
        voxel_mm3 = float(np.prod(spacing_mm))
        for region, min_mm3 in zip(spec.REGIONS, self.min_component_mm3):
            if min_mm3 > 0:
                classes = _without_small_components(classes, region, min_mm3 / voxel_mm3)
        return classes


def _without_small_components(classes, region, min_voxels):
    """Replaces the components of `region` that have fewer than `min_voxels` voxels."""
    inside = np.isin(classes, spec.REGIONS[region])
    box = bounding_box(inside)
    labels, count = ndimage.label(inside[box], NEIGHBOURS)
    if count < 2:
        return classes
    sizes = np.bincount(labels.ravel())[1:]
    small = sizes < min(min_voxels, sizes.max())
    if not small.any():
        return classes
    result = classes.copy()
    result[box][np.concatenate(([False], small))[labels]] = REPLACEMENTS[region]
    return result
