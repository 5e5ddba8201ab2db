"""Corrections of a finished label map, chosen on validation cases and stored in the model."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from brats_tfrecord import spec
from brats_tfrecord.boxes import bounding_box

_NEIGHBOURS = ndimage.generate_binary_structure(3, 3)
BELOW = {"WT": spec.BACKGROUND, "TC": spec.ED, "ET": spec.NCR}
"""What a voxel becomes when it is taken out of a region: the class around that region."""


@dataclass(frozen=True)
class PostProcessing:
    """What is done to a label map after the network; the default does nothing.

    Attributes:
        min_enhancing_voxels: a case with fewer voxels of enhancing tumour than this, but some, is
            held to have none, and they become necrosis (Isensee et al. 2020, BraTS 2020). Voxels
            of the recipe's grid, of about 1 mm³. 0: off.
        min_component_mm3: of WT, TC and ET, the volume below which a connected component
            (26 neighbours) is taken out of the region; a region's largest one always stays.
            0: off.
    """

    min_enhancing_voxels: int = 0
    min_component_mm3: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def to_json(self):
        """As a dict of JSON types; `from_json` gives back an equal object."""
        return {**dataclasses.asdict(self), "min_component_mm3": list(self.min_component_mm3)}

    @classmethod
    def from_json(cls, value):
        """From `to_json`'s dict; raises KeyError or TypeError for another's."""
        return cls(
            int(value["min_enhancing_voxels"]),
            tuple(float(volume) for volume in value["min_component_mm3"]),
        )

    def text(self):
        """What it does, in a few words."""
        said = [f"fewer than {self.min_enhancing_voxels} voxels of ET become NCR/NET"] * bool(
            self.min_enhancing_voxels
        )
        said += [
            f"components of {region} below {smallest:g} mm³ are removed"
            for region, smallest in zip(spec.REGIONS, self.min_component_mm3)
            if smallest
        ]
        return "; ".join(said) or "none"

    @property
    def is_off(self):
        """Whether it does nothing."""
        return self == PostProcessing()

    def without_faint_enhancement(self, classes):
        """Canonical classes uint8 [X, Y, Z] on the recipe's grid; ET replaced where too little."""
        enhancing = classes == spec.ET
        if np.count_nonzero(enhancing) >= self.min_enhancing_voxels:
            return classes
        return np.where(enhancing, np.uint8(spec.NCR), classes)

    def without_small_components(self, classes, spacing_mm):
        """Takes small components out of WT, then TC, then ET.

        Args:
            classes: uint8 [X, Y, Z] canonical classes.
            spacing_mm: (x, y, z) voxel spacing in millimetres.

        Returns:
            uint8 [X, Y, Z]; `classes` itself where nothing is small.
        """
        voxel_mm3 = float(np.prod(spacing_mm))
        for (region, members), smallest in zip(spec.REGIONS.items(), self.min_component_mm3):
            if smallest > 0:
                classes = _without_small(classes, members, smallest / voxel_mm3, BELOW[region])
        return classes


def _without_small(classes, members, smallest, instead):
    """`classes` with components of `members` of fewer than `smallest` voxels set to `instead`."""
    inside = np.isin(classes, members)
    box = bounding_box(inside)
    labels, count = ndimage.label(inside[box], _NEIGHBOURS)
    if count < 2:
        return classes
    sizes = np.bincount(labels.ravel())[1:]
    small = sizes < min(smallest, sizes.max())
    if not small.any():
        return classes
    result = classes.copy()
    result[box][np.concatenate(([False], small))[labels]] = instead
    return result
