"""Where the voxels of a patch come from: cut, flipped, turned, rotated, scaled.

Flips and quarter turns cost nothing: they are views of the patch that reading fills. Rotation and
scaling read a larger box once and sample the patch from it; the whole crop is never resampled.
"""

import numpy as np
from scipy import ndimage

from brats_tfrecord.training.data import augment_intensity


def read_patch(reader, case, drawn, patch_shape, channels):
    """Reads one patch as it was drawn, intensities untouched.

    Args:
        reader: `record_reader.RecordReader`.
        case: a case of it.
        drawn: `augment.Draw`.
        patch_shape: (X, Y, Z).
        channels: of the reader's images.

    Returns:
        image [X, Y, Z, C] in the stored dtype, and packed mask uint8 [X, Y, Z].
    """
    image = np.empty((*patch_shape, channels), reader.image_dtype)
    mask = np.empty(patch_shape, np.uint8)
    if drawn.matrix is None:
        reader.read_image(case, drawn.origin, unmoved(image, drawn))
        reader.read_mask(case, drawn.origin, unmoved(mask, drawn))
    else:
        _resample(reader, case, drawn, unmoved(image, drawn), unmoved(mask, drawn))
    return image, mask


def unmoved(patch, drawn):
    """The view of `patch` [X, Y, Z, ...] to fill so that `patch` comes out flipped and turned."""
    if drawn.turn is not None:
        quarters, axes = drawn.turn
        patch = np.rot90(patch, -quarters, axes)
    return np.flip(patch, drawn.flips)


def box_to_sample(matrix, origin, patch_shape, crop_shape):
    """What to read so that a patch can be sampled.

    Args:
        matrix, origin: of the `Draw`.
        patch_shape, crop_shape: (X, Y, Z).

    Returns:
        (first voxel [3], shape [3]) of the box within the crop, and (offset [3]) such that patch
        voxel v lies at matrix @ v + offset in the box. Outside the crop its border goes on.
    """
    half = (np.array(patch_shape) - 1) / 2
    centre, reach = origin + half, np.abs(matrix) @ half
    first = np.clip(np.floor(centre - reach), 0, None).astype(int)
    last = np.minimum(np.ceil(centre + reach), np.array(crop_shape) - 1).astype(int)
    return first, last - first + 1, centre - first - matrix @ half


def _resample(reader, case, drawn, image, mask):
    """Fills `image` and `mask` from the smallest box around what they need."""
    first, shape, offset = box_to_sample(drawn.matrix, drawn.origin, mask.shape, reader.crop_shape)
    box = np.empty((*shape, image.shape[3]), reader.image_dtype)
    reader.read_image(case, first, box)
    for channel in range(image.shape[3]):
        image[..., channel] = _sample(
            augment_intensity.to_float32(box[..., channel]), drawn.matrix, offset, mask.shape, 1
        )
    box = np.empty(shape, np.uint8)
    reader.read_mask(case, first, box)
    mask[...] = _sample(box, drawn.matrix, offset, mask.shape, 0)


def _sample(box, matrix, offset, shape, order):
    return ndimage.affine_transform(
        box, matrix, offset, output_shape=shape, order=order, mode="nearest", prefilter=False
    )
