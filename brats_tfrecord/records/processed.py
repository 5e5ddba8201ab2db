"""Processed images and one-hot masks as NIfTI, for people who want to look."""

from pathlib import Path

import numpy as np

from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.preprocess import masks

IMAGES, MASKS = "processed_images", "processed_masks"


def write_processed(root, raw, preprocessed):
    """Writes the window of a case as NIfTI, in LPS order with its true place in the world.

    `root/processed_images/ID/ID_flair.nii.gz` and so on are float32 [X, Y, Z];
    `root/processed_masks/ID/ID_seg.nii.gz` is the one-hot mask, uint8 [X, Y, Z, K].
    """
    window = window_geometry(raw.geometry, preprocessed)
    images = Path(root) / IMAGES / raw.case_id
    for channel, name in enumerate(raw.modalities):
        nifti.write_volume(
            images / f"{raw.case_id}_{name}.nii.gz",
            preprocessed.image[..., channel].astype(np.float32),
            window,
        )
    if preprocessed.classes is not None:
        count = spec.LABEL_SCHEMES[raw.label_scheme].classes
        nifti.write_volume(
            Path(root) / MASKS / raw.case_id / f"{raw.case_id}_seg.nii.gz",
            masks.one_hot(preprocessed.classes, count),
            window,
        )


def is_written(root, case):
    """Whether `write_processed` has written all files of a `Case`."""
    images = Path(root) / IMAGES / case.case_id
    paths = [images / f"{case.case_id}_{name}.nii.gz" for name in spec.MODALITIES]
    if case.mask is not None:
        paths.append(Path(root) / MASKS / case.case_id / f"{case.case_id}_seg.nii.gz")
    return all(path.is_file() for path in paths)


def window_geometry(geometry, preprocessed):
    """The geometry of the window cut from the LPS grid of a case.

    Args:
        geometry: `Geometry` of the case's files.
        preprocessed: `preprocess.preprocessed.PreprocessedCase`; its grid has the case's field of view,
            corner to corner, in the case's own voxels or in others.
    """
    scale = np.divide(geometry.lps_shape, preprocessed.grid_shape)
    to_native = np.diag([*scale, 1.0])
    to_native[:3, 3] = scale * (np.array(preprocessed.crop_origin) + 0.5) - 0.5
    return Geometry(
        preprocessed.image.shape[:3],
        geometry.lps_affine @ to_native,
        geometry.xyzt_units,
        geometry.qform_code,
        geometry.sform_code,
    )
