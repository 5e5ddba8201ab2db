"""The result of preprocessing a case, with the voxels that the crop removes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brats_tfrecord.preprocess import crop, resample

BRAIN_LOSS, TUMOUR_LOSS = 0.1, 0.001
"""Shares of the brain and of the tumour above which a crop that removes them is reported."""


@dataclass(frozen=True)
class PreprocessedCase:
    """The result of applying a `Recipe` to a case.

    "Grid" means the LPS grid before the crop: the grid of the case itself or, if it is resampled,
    the 1 mm grid. All counts and indices refer to voxels of this grid.

    Attributes:
        image: [*crop_shape, C], the network input, in the image dtype of the recipe.
        classes: uint8 [*crop_shape] canonical classes, or None for an unlabelled case.
        crop_origin: (x, y, z) of the window's first voxel in the grid; negative where the window
            extends beyond the grid.
        grid_shape: (X, Y, Z) of the grid.
        native_classes: uint8 [X, Y, Z] canonical classes before resampling, so that predictions
            are compared with the original truth; None if the case is not resampled.
        outside_index: int32 [N, 3], grid indices of the tumour voxels outside the window, so that
            the complete truth can be restored.
        outside_classes: uint8 [N], the classes of these voxels.
        brain_voxels: number of voxels where any modality is positive.
        brain_voxels_lost: number of those outside the window.
        class_voxels: number of voxels of each class before the crop; empty if unlabelled.
        warnings: messages to the user about this case.
    """

    image: np.ndarray
    classes: np.ndarray | None
    crop_origin: tuple[int, ...]
    grid_shape: tuple[int, ...]
    native_classes: np.ndarray | None
    outside_index: np.ndarray
    outside_classes: np.ndarray
    brain_voxels: int
    brain_voxels_lost: int
    class_voxels: tuple[int, ...]
    warnings: tuple[str, ...]

    @classmethod
    def from_volumes(
        cls,
        volumes: np.ndarray,
        native: np.ndarray | None,
        count: int,
        modalities: Sequence[str],
        image: np.ndarray,
        origin: Sequence[int],
        missing: Sequence[str] = (),
    ) -> PreprocessedCase:
        """Crops the mask and counts the voxels that the crop removes.

        Args:
            volumes: float32 [X, Y, Z, C] on the grid, before the crop.
            native: uint8 [X, Y, Z] canonical classes before resampling, or None if unlabelled.
            count: number of classes.
            modalities: names of the channels.
            image: [*crop_shape, C], the network input.
            origin: (x, y, z) of the window's first voxel.
            missing: names of the channels that the case lacks; they are zeros for a known reason.
        """
        shape, size = volumes.shape[:3], image.shape[:3]
        brain, brain_lost = brain_voxels(volumes, crop.overlap(shape, origin, size)[1])
        classes, window, class_voxels = None, None, ()
        index, values = np.zeros((0, 3), np.int32), np.zeros(0, np.uint8)
        if native is not None:
            classes = resample.classes_to(shape, native)
            window = crop.crop(classes, origin, size)
            index, values, class_voxels = _tumour(classes, origin, size, count)
        return cls(
            image=image,
            classes=window,
            crop_origin=tuple(origin),
            grid_shape=tuple(shape),
            native_classes=None if classes is native else native,
            outside_index=index,
            outside_classes=values,
            brain_voxels=brain,
            brain_voxels_lost=brain_lost,
            class_voxels=class_voxels,
            warnings=(
                *(
                    f"{name} does not vary within the crop; stored as zeros"
                    for name in flat_channels(image, modalities)
                    if name not in missing
                ),
                *_losses(brain, brain_lost, sum(class_voxels[1:]), len(index)),
            ),
        )


def brain_mask(volumes: np.ndarray) -> np.ndarray:
    """Returns where any channel of [X, Y, Z, C] is positive, bool [X, Y, Z]."""
    brain = volumes[..., 0] > 0
    for channel in range(1, volumes.shape[-1]):
        brain |= volumes[..., channel] > 0
    return brain


def flat_channels(volumes: np.ndarray, modalities: Sequence[str]) -> list[str]:
    """Returns the names of the channels of [X, Y, Z, C] that have the same value everywhere."""
    middle = len(volumes) // 2  # This plane is checked first because it nearly always varies.
    return [
        name
        for channel, name in enumerate(modalities)
        if not np.ptp(volumes[middle, ..., channel]) and not np.ptp(volumes[..., channel])
    ]


def brain_voxels(volumes: np.ndarray, inside: tuple[slice, ...]) -> tuple[int, int]:
    """Counts the voxels of [X, Y, Z, C] where any channel is positive.

    Args:
        volumes: [X, Y, Z, C] on the grid.
        inside: slices of the grid that the window covers, as returned by `crop.overlap`.

    Returns:
        Their number, and the number of those outside the window.
    """
    brain = brain_mask(volumes)
    total = np.count_nonzero(brain)
    return total, total - np.count_nonzero(brain[inside])


def _tumour(classes, origin, size, count):
    """(indices and classes of the tumour voxels outside the window, voxels of each class)."""
    index = np.argwhere(classes).astype(np.int32)
    values = classes[tuple(index.T)]
    class_voxels = np.bincount(values, minlength=count)
    class_voxels[0] = classes.size - len(index)
    outside = ((index < origin) | (index >= np.add(origin, size))).any(axis=1)
    return index[outside], values[outside], tuple(class_voxels.tolist())


def _losses(brain, brain_lost, tumour, tumour_lost):
    """Warnings about brain and tumour voxels that the crop removes."""
    return [
        f"the crop cuts off {lost / total:.1%} of the {name} ({lost} voxels); --crop=brain or "
        "a larger --crop_window keeps more"
        for name, total, lost, share in (
            ("brain", brain, brain_lost, BRAIN_LOSS),
            ("tumour", tumour, tumour_lost, TUMOUR_LOSS),
        )
        if lost > share * total
    ]
