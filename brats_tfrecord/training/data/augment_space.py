"""Spatial augmentation: patches are cut, flipped, turned, rotated and scaled while they are read.

Flips and quarter turns cost nothing, because the reader fills a view of the patch. Rotation and
scaling read a larger box once and sample the patch from it; the whole crop is never resampled.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from brats_tfrecord import brain
from brats_tfrecord.training.data import augment_intensity
from brats_tfrecord.training.data.augment import PatchParameters
from brats_tfrecord.training.data.record_reader import RecordReader


def read_patch(
    reader: RecordReader,
    case: int,
    parameters: PatchParameters,
    image: np.ndarray,
    mask: np.ndarray,
    background: np.ndarray | None = None,
) -> None:
    """Reads one patch with its spatial augmentation; intensities are unchanged.

    Args:
        reader: reader of the dataset.
        case: index of the case in `reader.case_ids`.
        parameters: where the patch lies and how it is moved.
        image: [X, Y, Z, C] in the stored dtype, which is filled.
        mask: packed mask uint8 [X, Y, Z], which is filled.
        background: `RecordReader.read_background` of the case, to mark the brain in the mask; None
            does not mark it.
    """
    image_view, mask_view = _before_flips(image, parameters), _before_flips(mask, parameters)
    if parameters.matrix is None:
        origin = parameters.origin.tolist()
        reader.read_image(case, origin, image_view)
        reader.read_mask(case, origin, mask_view)
        _mark_brain(image, mask, background)
    else:
        _resample(reader, case, parameters, image_view, mask_view, background)


def box_to_sample(
    matrix: np.ndarray, origin: np.ndarray, patch_shape: Sequence[int], crop_shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the smallest box that a rotated or scaled patch is sampled from.

    Args:
        matrix, origin: as in `PatchParameters`.
        patch_shape, crop_shape: (X, Y, Z).

    Returns:
        (first voxel [3], shape [3]) of the box within the crop, and (offset [3]) such that patch
        voxel v lies at matrix @ v + offset in the box. Outside the crop, its border is repeated.
    """
    half = (np.array(patch_shape) - 1) / 2
    centre, reach = origin + half, np.abs(matrix) @ half
    first = np.clip(np.floor(centre - reach), 0, None).astype(int)
    last = np.minimum(np.ceil(centre + reach), np.array(crop_shape) - 1).astype(int)
    return first, last - first + 1, centre - first - matrix @ half


def _before_flips(patch, parameters):
    """The view of `patch` [X, Y, Z, ...] to fill so that `patch` ends up flipped and turned."""
    if parameters.turn is not None:
        quarters, axes = parameters.turn
        patch = np.rot90(patch, -quarters, axes)
    return np.flip(patch, parameters.flips)


def _mark_brain(image, mask, background):
    if background is not None:
        brain.mark(image, mask, background)


def _resample(reader, case, parameters, image, mask, background):
    """Fills `image` and `mask` with samples of the box around the patch."""
    matrix = parameters.matrix
    first, shape, offset = box_to_sample(matrix, parameters.origin, mask.shape, reader.crop_shape)
    image_box = np.empty((*shape, image.shape[3]), reader.image_dtype)
    reader.read_image(case, first, image_box)
    for channel in range(image.shape[3]):
        voxels = augment_intensity.to_float32(image_box[..., channel])
        image[..., channel] = _sample(voxels, matrix, offset, mask.shape, order=1)
    mask_box = np.empty(shape, np.uint8)
    reader.read_mask(case, first, mask_box)
    _mark_brain(image_box, mask_box, background)
    mask[...] = _sample(mask_box, matrix, offset, mask.shape, order=0)


def _sample(box, matrix, offset, shape, order):
    return ndimage.affine_transform(
        box, matrix, offset, output_shape=shape, order=order, mode="nearest", prefilter=False
    )
