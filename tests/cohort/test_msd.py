"""MSD Task01: one 4-D file per case, with its own order of modalities and labels."""

import json

import nibabel
import numpy as np
import pytest

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.preprocess import masks

AFFINE = np.array([[1.0, 0, 0, -3], [0, 1, 0, 7], [0, 0, 1, 2], [0, 0, 0, 1]])  # RAS
SHAPE = (4, 5, 6)
DESCRIPTION = {
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {
        "0": "background",
        "1": "edema",
        "2": "non-enhancing tumor",
        "3": "enhancing tumour",
    },
}


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)


def make_task(root, channels=4):
    """Writes two cases with a mask and one without; returns the ramp.

    Channel c of each image is the ramp plus 100 c.
    """
    ramp = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    image = np.stack([ramp + 100 * channel for channel in range(channels)], -1).astype(np.float32)
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 0, :3] = 1, 2, 3
    for name in ("BRATS_001", "BRATS_002"):
        save(root / "imagesTr" / f"{name}.nii.gz", image)
        save(root / "labelsTr" / f"{name}.nii.gz", mask)
        (root / "imagesTr" / f"._{name}.nii.gz").touch()
    save(root / "imagesTs" / "BRATS_485.nii.gz", image)
    (root / "dataset.json").write_text(json.dumps(DESCRIPTION))
    return ramp


def test_channels_and_labels_are_mapped_to_canonical_names(tmp_path):
    ramp = make_task(tmp_path / "Task01_BrainTumour")
    cohort = layouts.find_cohort(tmp_path)
    assert (cohort.layout, cohort.label_scheme, cohort.notes) == ("msd", "msd", ())
    assert [(case.case_id, case.mask is not None) for case in cohort.cases] == [
        ("BRATS_001", True),
        ("BRATS_002", True),
        ("BRATS_485", False),
    ]
    raw = nifti.read_case(cohort.cases[0], ("t1", "flair", "t2", "t1ce"))
    # Voxel (0, 0, 0) of a RAS file is the last voxel along x and y in LPS order.
    assert raw.volumes[3, 4, 0].tolist() == [100, 0, 300, 200]
    assert raw.volumes[0, 4, 0].tolist() == [value + ramp[3, 0, 0] for value in (100, 0, 300, 200)]
    classes = masks.to_classes(raw.mask, spec.LABEL_SCHEMES["msd"], "")
    assert classes[3, 4].tolist() == [spec.ED, spec.NCR, spec.ET, 0, 0, 0]


def test_masks_are_found_if_the_root_is_imagestr(tmp_path):
    make_task(tmp_path)
    first, second = layouts.find_cases(tmp_path / "imagesTr")
    assert first.mask == tmp_path / "labelsTr" / "BRATS_001.nii.gz" and second.mask


def test_images_without_a_mask_and_masks_without_an_image_are_noted(tmp_path):
    make_task(tmp_path)
    (tmp_path / "labelsTr" / "BRATS_002.nii.gz").rename(tmp_path / "labelsTr" / "BRATS_003.nii.gz")
    cohort = layouts.find_cohort(tmp_path)
    assert cohort.cases[1].mask is None and "unlabelled" in cohort.cases[1].notes[0]
    assert "masks without any image" in cohort.notes[0] and "BRATS_003" in cohort.notes[0]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"modality": {"0": "T1w", "1": "FLAIR", "2": "t1gd", "3": "T2w"}},
            "its modalities are 0 T1w, 1 FLAIR.*expected those of Task01",
        ),
        ({"modality": {"0": "MRI"}}, "its modalities are 0 MRI"),
        (
            {"labels": {"0": "background", "1": "necrosis", "2": "edema", "3": "enhancing tumour"}},
            "its labels are 0 background, 1 necrosis",
        ),
        ({"labels": None}, "cannot be read as an MSD dataset.json"),
    ],
)
def test_a_dataset_json_of_another_task_is_refused(tmp_path, change, message):
    make_task(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({**DESCRIPTION, **change}))
    with pytest.raises(InputError, match=f"dataset.json: {message}"):
        layouts.find_cases(tmp_path)


def test_nnunet_names_are_not_taken_as_msd_images(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "BRATS_001_0000.nii.gz").touch()
    with pytest.raises(InputError, match="no case found.*NIfTI files of no known name"):
        layouts.find_cases(tmp_path)


def test_a_file_with_too_few_volumes_is_refused(tmp_path):
    make_task(tmp_path, channels=2)
    with pytest.raises(CaseError, match="BRATS_001.nii.gz: has 2 volumes; expected the four"):
        nifti.read_case(layouts.find_cases(tmp_path)[0])


def declare(root, **modality):
    """Declares the volumes of the files: index -> modality."""
    numbered = {index.removeprefix("v"): name for index, name in modality.items()}
    (root / "dataset.json").write_text(json.dumps({**DESCRIPTION, "modality": numbered}))


def test_files_with_fewer_volumes_lack_the_modalities_that_dataset_json_does_not_list(tmp_path):
    ramp = make_task(tmp_path, channels=2)
    declare(tmp_path, v0="t1gd", v1="FLAIR")
    case = layouts.find_cases(tmp_path)[0]
    assert case.missing == ("t1", "t2")
    raw = nifti.read_case(case, allow_missing=True)
    assert raw.missing == ("t1", "t2")
    first = ramp[3, 0, 0]  # voxel (0, 4, 0) in LPS order
    assert raw.volumes[0, 4, 0].tolist() == [0, first, 0, first + 100]
    with pytest.raises(CaseError, match="BRATS_001: no t1 image.*found t1ce, flair.*dataset.json"):
        nifti.read_case(case)


def test_a_file_with_other_volumes_than_dataset_json_lists_is_refused(tmp_path):
    make_task(tmp_path)
    declare(tmp_path, v0="FLAIR", v1="T1gd")
    with pytest.raises(CaseError, match="has 4 volumes; expected the 2 .* flair, t1ce"):
        nifti.read_case(layouts.find_cases(tmp_path)[0], allow_missing=True)


@pytest.mark.parametrize(
    "modality", [{}, {"v0": "FLAIR", "v2": "T2w"}, {"v0": "FLAIR", "v1": "flair"}]
)
def test_a_dataset_json_that_numbers_its_modalities_otherwise_is_refused(tmp_path, modality):
    make_task(tmp_path, channels=2)
    declare(tmp_path, **modality)
    with pytest.raises(InputError, match="dataset.json: its modalities are"):
        layouts.find_cases(tmp_path)
