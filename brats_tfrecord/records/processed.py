"""Processed images and one-hot masks as NIfTI, for people who want to look."""

from pathlib import Path

import numpy as np

from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.preprocess import masks

IMAGES, MASKS = "processed_images", "processed_masks"


def write_processed(root, raw, preprocessed, recipe):
    """Writes the window of a case as NIfTI, in LPS order with its true place in the world.

    `root/processed_images/ID/ID_flair.nii.gz` and so on are float32 [X, Y, Z];
    `root/processed_masks/ID/ID_seg.nii.gz` is the one-hot mask, uint8 [X, Y, Z, K].
    """
    window = window_geometry(raw.geometry, recipe)
    images = Path(root) / IMAGES / raw.case_id
    for channel, name in enumerate(raw.modalities):
        nifti.write_volume(images / f"{raw.case_id}_{name}.nii.gz",
                           preprocessed.image[..., channel].astype(np.float32), window)
    if preprocessed.classes is not None:
        count = spec.LABEL_SCHEMES[raw.label_scheme].classes
        nifti.write_volume(Path(root) / MASKS / raw.case_id / f"{raw.case_id}_seg.nii.gz",
                           masks.one_hot(preprocessed.classes, count), window)


def window_geometry(geometry, recipe):
    """The geometry of the recipe's window cut from an LPS array of `geometry`."""
    affine = geometry.lps_affine.copy()
    affine[:, 3] = affine @ np.array([*recipe.crop_origin, 1.0])
    return nifti.Geometry(recipe.crop_shape, affine, geometry.xyzt_units,
                          geometry.qform_code, geometry.sform_code)
