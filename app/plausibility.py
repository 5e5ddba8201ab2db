"""Whether a volume that was read can be an MRI of a brain at all."""

import numpy as np

from brats_tfrecord import spec

MOST_LABEL = max(max(scheme.values) for scheme in spec.LABEL_SCHEMES.values())
"""Highest value that any release writes into a mask."""

LEAST_BACKGROUND = 0.05
"""Share of background voxels that any skull-stripped volume exceeds many times over; noise and
heads with skull and air have next to none."""

LEAST_BRAIN = 0.005
"""Share of brain voxels that any scan exceeds; a brain fills 15 % of BraTS's 240x240x155."""


def problem_of(volume):
    """Why `volume` is no MRI of a brain, as the end of a message, or None.

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
    if lowest == 0 and highest <= MOST_LABEL and _whole(volume):
        return (
            f"holds only whole numbers from 0 to {highest:g}, as a segmentation does; expected "
            "intensities of an MRI, choose it as the segmentation"
        )
    return None


def doubt_of(volume):
    """Why results on `volume` may mean nothing, as the end of a message, or None.

    Args:
        volume: float32 [X, Y, Z], finite.
    """
    background = max(np.count_nonzero(volume == value) for value in (0, volume.min()))
    share = background / volume.size
    if share < LEAST_BACKGROUND:
        return (
            f"{share:.1%} of the voxels are background; expected a skull-stripped brain with 0 "
            "around it, the segmentation may mean nothing"
        )
    if 1 - share < LEAST_BRAIN:
        return (
            f"{1 - share:.2%} of the voxels are brain; expected some 15%, the segmentation may "
            "mean nothing"
        )
    return None


def _whole(volume):
    # Plane by plane: the first fraction ends it, and nothing of the volume's size is allocated.
    return all((plane == np.rint(plane)).all() for plane in volume)
