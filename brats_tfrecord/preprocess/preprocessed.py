"""What a recipe makes of a case, with the books of what the crop cost."""

from dataclasses import dataclass

import numpy as np

from brats_tfrecord.preprocess import crop, resample

BRAIN_LOSS, TUMOUR_LOSS = 0.1, 0.001
"""Shares that a crop may cut off before the case carries a warning."""


@dataclass(frozen=True)
class PreprocessedCase:
    """What a recipe makes of a case.

    The grid is the LPS grid before the crop: the case's own, or the 1 mm grid. All counts and
    indices are of its voxels.

    Attributes:
        image: [*crop_shape, C] in the recipe's image dtype.
        classes: uint8 [*crop_shape] canonical classes, or None for an unlabelled case.
        crop_origin: (x, y, z) of the window's first voxel in the grid; negative where the window
            leaves it.
        grid_shape: (X, Y, Z) of the grid.
        native_classes: uint8 [X, Y, Z] canonical classes of the case's own grid where that is
            another, so that resampling never changes the truth; else None.
        outside_index: int32 [N, 3], grid indices of tumour voxels that the window cuts off, so
            that the truth never is.
        outside_classes: uint8 [N], their classes.
        brain_voxels, brain_voxels_lost: voxels where any modality is positive; those outside the
            window.
        class_voxels: voxels of each class in the uncropped mask; empty if unlabelled.
        warnings: what a person should know of this case.
    """

    image: np.ndarray
    classes: np.ndarray | None
    crop_origin: tuple[int, int, int]
    grid_shape: tuple[int, int, int]
    native_classes: np.ndarray | None
    outside_index: np.ndarray
    outside_classes: np.ndarray
    brain_voxels: int
    brain_voxels_lost: int
    class_voxels: tuple[int, ...]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, volumes, native, count, modalities, image, origin):
        """Gathers the window of the mask and the ledger.

        Args:
            volumes: float32 [X, Y, Z, C] on the grid.
            native: uint8 classes of the case's own grid, or None.
            count: number of classes.
            modalities: names of the channels.
            image: [*crop_shape, C], the network's input.
            origin: (x, y, z) of the window's first voxel.
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
                ),
                *_losses(brain, brain_lost, sum(class_voxels[1:]), len(index)),
            ),
        )


def brain_mask(volumes):
    """Where any channel of [X, Y, Z, C] is positive, bool [X, Y, Z]."""
    brain = volumes[..., 0] > 0
    for channel in range(1, volumes.shape[-1]):
        brain |= volumes[..., channel] > 0
    return brain


def flat_channels(volumes, modalities):
    """Names of the channels of [X, Y, Z, C] that nowhere vary, list of str."""
    middle = len(volumes) // 2  # varies nearly always: the rest is not looked at
    return [
        name
        for channel, name in enumerate(modalities)
        if not np.ptp(volumes[middle, ..., channel]) and not np.ptp(volumes[..., channel])
    ]


def brain_voxels(volumes, inside):
    """Voxels of [X, Y, Z, C] where any channel is positive: (all, those outside `inside`).

    `inside` are the slices of the grid that the window covers, as from `crop.overlap`.
    """
    brain = brain_mask(volumes)
    whole = np.count_nonzero(brain)
    return whole, whole - np.count_nonzero(brain[inside])


def _tumour(classes, origin, size, count):
    """(indices, classes of tumour voxels outside the window, voxels of each class)."""
    index = np.argwhere(classes).astype(np.int32)
    values = classes[tuple(index.T)]
    of_class = np.bincount(values, minlength=count)
    of_class[0] = classes.size - len(index)
    cut = ((index < origin) | (index >= np.add(origin, size))).any(axis=1)
    return index[cut], values[cut], tuple(of_class.tolist())


def _losses(brain, brain_lost, tumour, tumour_lost):
    return [
        f"the crop cuts off {lost / whole:.1%} of the {name} ({lost} voxels); --crop=brain or "
        "a larger --crop_window keeps more"
        for name, whole, lost, share in (
            ("brain", brain, brain_lost, BRAIN_LOSS),
            ("tumour", tumour, tumour_lost, TUMOUR_LOSS),
        )
        if lost > share * whole
    ]
