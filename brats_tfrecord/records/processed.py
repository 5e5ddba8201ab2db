"""Writes preprocessed images and one-hot masks as NIfTI files, for viewers."""

from pathlib import Path

import numpy as np

from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.cohort.case import Case
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.cohort.nifti import RawCase
from brats_tfrecord.preprocess import masks
from brats_tfrecord.preprocess.preprocessed import PreprocessedCase

IMAGES, MASKS = "processed_images", "processed_masks"


def write_processed(root: Path | str, raw: RawCase, preprocessed: PreprocessedCase) -> None:
    """Writes the window of a case as NIfTI, in LPS order and with its affine.

    `root/processed_images/ID/ID_flair.nii.gz` and so on are float32 [X, Y, Z]; missing modalities
    have no file. `root/processed_masks/ID/ID_seg.nii.gz` is the one-hot mask, uint8 [X, Y, Z, K].
    """
    window = window_geometry(raw.geometry, preprocessed)
    images = Path(root) / IMAGES / raw.case_id
    for channel, name in enumerate(raw.modalities):
        if name not in raw.missing:
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


def is_written(root: Path | str, case: Case) -> bool:
    """Whether `write_processed` has written all files of a case."""
    images = Path(root) / IMAGES / case.case_id
    paths = [images / f"{case.case_id}_{name}.nii.gz" for name in case.images]
    if case.mask is not None:
        paths.append(Path(root) / MASKS / case.case_id / f"{case.case_id}_seg.nii.gz")
    return all(path.is_file() for path in paths)


def window_geometry(geometry: Geometry, preprocessed: PreprocessedCase) -> Geometry:
    """Computes the geometry of the window of a preprocessed case.

    Args:
        geometry: geometry of the input files.
        preprocessed: the case. Its grid has the field of view of the input files, corner to
            corner; its voxels may have another size.
    """
    size_x, size_y, size_z, _ = preprocessed.image.shape
    scale = np.divide(geometry.lps_shape, preprocessed.grid_shape)
    to_native = np.diag([*scale, 1.0])
    to_native[:3, 3] = scale * (np.array(preprocessed.crop_origin) + 0.5) - 0.5
    return Geometry(
        (size_x, size_y, size_z),
        geometry.lps_affine @ to_native,
        geometry.xyzt_units,
        geometry.qform_code,
        geometry.sform_code,
    )
