"""Spatial augmentation: patches are cut, flipped, turned, rotated and so on while they are read.

Flips and quarter turns cost nothing, because the reader fills a view of the patch. Rotation,
scaling and elastic deformation read a larger box once and sample the patch from it in one pass; the
whole crop is never resampled.
"""

from collections.abc import Callable, Sequence

import numpy as np

from brats_tfrecord import brain, spec
from brats_tfrecord.training.data import elastic, half_precision, sampling
from brats_tfrecord.training.data.augment import PatchParameters
from brats_tfrecord.training.data.record_reader import RecordReader

PLANES = 4
"""Planes of X that are read and converted at once: they stay in the processor's cache."""

BACKGROUND = 1 << spec.BACKGROUND
"""A background voxel of a packed mask."""


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
        if background is not None:
            brain.mark(image, mask, background)
    else:
        _resample(reader, case, parameters, image_view, mask_view, background)


def box_to_sample(
    matrix: np.ndarray,
    origin: np.ndarray,
    patch_shape: Sequence[int],
    crop_shape: Sequence[int],
    margin: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the smallest box that a resampled patch is sampled from.

    Args:
        matrix, origin: as in `PatchParameters`.
        patch_shape, crop_shape: (X, Y, Z).
        margin: largest displacement along each axis of the crop [3], in voxels.

    Returns:
        (first voxel [3], shape [3]) of the box within the crop, and (offset [3]) such that patch
        voxel v lies at matrix @ v + offset in the box. Outside the crop, its border is repeated.
    """
    half = (np.array(patch_shape) - 1) / 2
    centre, reach = origin + half, np.abs(matrix) @ half + margin
    first = np.clip(np.floor(centre - reach), 0, None).astype(int)
    last = np.minimum(np.ceil(centre + reach), np.array(crop_shape) - 1).astype(int)
    return first, last - first + 1, centre - first - matrix @ half


def _before_flips(patch, parameters):
    """The view of `patch` [X, Y, Z, ...] to fill so that `patch` ends up flipped and turned."""
    if parameters.turn is not None:
        quarters, axes = parameters.turn
        patch = np.rot90(patch, -quarters, axes)
    return np.flip(patch, parameters.flips)


def _resample(reader, case, parameters, image, mask, background):
    """Fills `image` and `mask` with samples of the box around the patch."""
    dtype, matrix = np.dtype(np.float32 if parameters.fast else np.float64), parameters.matrix
    displacement, margin = None, np.zeros(3)
    if parameters.elastic is not None:
        points = elastic.in_crop_voxels(parameters.elastic, matrix, mask.shape)
        displacement = elastic.Displacement(points, mask.shape, dtype)
        margin = elastic.reach(points)
    first, shape, offset = box_to_sample(
        matrix, parameters.origin, mask.shape, reader.crop_shape, margin
    )
    before = after = np.zeros(3, int)
    if parameters.background_outside:
        # Where the box reaches the border of the crop, one voxel of background lies around it. The
        # first voxel of a crop is outside of the head.
        before, after = first == 0, first + shape == reader.crop_shape
    padded = shape + before + after
    inner = tuple(slice(b, b + n) for b, n in zip(before.astype(int), shape))
    image_box = np.empty((*padded, _fast_channels(image.shape[3])), dtype)
    mask_box = np.full(padded, BACKGROUND, np.uint8)
    if before.any() or after.any():
        corner = np.empty((1, 1, 1, image_box.shape[3]), dtype)
        _read_image(reader, case, np.zeros(3, int), corner, image.shape[3])
        _fill_border(image_box, corner[0, 0, 0], inner)
    reader.read_mask(case, first, mask_box[inner])
    _read_image(reader, case, first, image_box[inner], image.shape[3], mask_box[inner], background)
    positions = _positions(matrix, offset + before, mask.shape, dtype, displacement)
    sampling.sample(image_box, mask_box, positions, image, mask)


def _fast_channels(channels):
    """The next power of two: voxels of such a size are fetched four times as fast as others."""
    return 1 << (channels - 1).bit_length()


def _fill_border(box, voxel, inner):
    """Sets the voxels of a box [x, y, z, K] beside its `inner` slices to one voxel, [K]."""
    for axis, within in enumerate(inner):
        before_axis = (slice(None),) * axis
        box[before_axis + (slice(0, within.start),)] = voxel
        box[before_axis + (slice(within.stop, None),)] = voxel


def _read_image(reader, case, first, box, channels, mask=None, background=None):
    """Reads an image into the first channels of a box [x, y, z, K] of another dtype.

    With the background, marks the brain in the mask of the box, from the stored values.
    """
    stored = np.zeros((min(PLANES, len(box)), *box.shape[1:]), reader.image_dtype)
    if background is not None:
        # The channels beyond C are 0, and so is their background.
        background = np.pad(background, (0, box.shape[3] - channels))
    for x in range(0, len(box), PLANES):
        part = stored[: len(box[x : x + PLANES])]
        reader.read_image(case, first + (x, 0, 0), part[..., :channels])
        if background is not None:
            brain.mark(part, mask[x : x + PLANES], background)
        box[x : x + PLANES] = half_precision.to_float32(part)


def _positions(
    matrix: np.ndarray,
    offset: np.ndarray,
    patch_shape: Sequence[int],
    dtype: np.dtype,
    displacement: Callable[[slice], np.ndarray] | None,
) -> Callable[[slice, np.ndarray], None]:
    """Makes the function `positions` of `sampling.sample`: matrix @ v + offset + displacement."""
    x, y, z = (column[:, None] * np.arange(n) for column, n in zip(matrix.T, patch_shape))
    plane = (y[:, :, None] + (z + offset[:, None])[:, None, :]).astype(dtype)
    x = x.astype(dtype)

    def positions(block, out):
        np.add(plane[:, None], x[:, block, None, None], out=out)
        if displacement is not None:
            out += displacement(block)

    return positions
