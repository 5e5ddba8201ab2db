"""Checks whether a volume can be an MRI of a brain."""

import numpy as np

from brats_tfrecord import spec

MAX_LABEL = max(max(scheme.values) for scheme in spec.LABEL_SCHEMES.values())
"""Highest label value in a mask of any release."""

MIN_BACKGROUND = 0.05
"""Skull-stripped volumes have far more than this share of background voxels; noise, and heads
with skull and air, have almost none."""

MIN_BRAIN = 0.005
"""Scans have more than this share of brain voxels: 15 % in BraTS's 240x240x155."""


def problem_of(volume: np.ndarray) -> str | None:
    """Returns why `volume` cannot be an MRI of a brain, as the end of a message, or None.

    Args:
        volume: float32 [X, Y, Z], finite.
    """
    lowest, highest = float(volume.min()), float(volume.max())
    if lowest == highest:
        return f"every voxel is {lowest:g}; expected intensities of an MRI, export it again"
    if highest <= 0:
        return (
            f"no voxel is above 0 (values from {lowest:g} to {highest:g}); expected the brain "
            "above 0, export it again"
        )
    if lowest == 0 and highest <= MAX_LABEL and _is_whole(volume):
        return (
            f"holds only whole numbers from 0 to {highest:g}, as a segmentation does; expected "
            "intensities of an MRI, choose it as the segmentation"
        )
    return None


def doubt_of(volume: np.ndarray) -> str | None:
    """Returns why a segmentation of `volume` may be wrong, as the end of a message, or None.

    Args:
        volume: float32 [X, Y, Z], finite.
    """
    background = max(np.count_nonzero(volume == value) for value in (0, volume.min()))
    share = background / volume.size
    if share < MIN_BACKGROUND:
        return (
            f"{share:.1%} of the voxels are background; expected a skull-stripped brain with 0 "
            "around it, the segmentation may be wrong"
        )
    if 1 - share < MIN_BRAIN:
        return (
            f"{1 - share:.2%} of the voxels are brain; expected about 15%, the segmentation may "
            "be wrong"
        )
    return None


def _is_whole(volume):
    # Plane by plane: stops at the first fraction, and allocates nothing of the volume's size.
    return all((plane == np.rint(plane)).all() for plane in volume)
