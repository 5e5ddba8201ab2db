"""The phantom cohort: its files, its anatomy, and that no threshold can segment its tumours."""

import hashlib

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.errors import InputError
from brats_tfrecord.metrics.threshold import best_threshold_dice
from brats_tfrecord.phantom import generate

SMALL = (120, 120, 80)
CROP = (slice(24, 96), slice(24, 96), slice(3, 75))
"""The crop of the documented recipe, scaled to the small volume."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A folder with three small labelled cases and one without a mask."""
    root = tmp_path_factory.mktemp("phantoms")
    generate.write_cohort(root, 3, 5, unlabelled=1, shape=SMALL)
    return root


@pytest.fixture(scope="module")
def phantoms(cohort):
    """The three labelled cases, read from their files."""
    raw = [nifti.read_case(case) for case in layouts.find_cases(cohort)[:3]]
    return [generate.Phantom(case.volumes, case.mask) for case in raw]


def test_find_cases_finds_the_phantoms(cohort):
    cases = layouts.find_cases(cohort)
    assert [case.case_id for case in cases] == [
        "BraTS20_Training_001",
        "BraTS20_Training_002",
        "BraTS20_Training_003",
        "BraTS20_Validation_001",
    ]
    for case in cases:
        assert tuple(case.images) == spec.MODALITIES
    assert [case.mask is not None for case in cases] == [True, True, True, False]


def test_a_full_size_case_has_the_geometry_of_brats(tmp_path):
    [folder] = generate.write_cohort(tmp_path, 1, 0)
    images = {
        path.name.split("_")[-1].split(".")[0]: nibabel.load(path)
        for path in folder.glob("*.nii.gz")
    }
    assert set(images) == {*spec.MODALITIES, "seg"}
    for name, image in images.items():
        assert image.shape == (240, 240, 155)
        assert image.get_data_dtype() == (np.uint8 if name == "seg" else np.int16)
        np.testing.assert_array_equal(
            image.affine, [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]]
        )
        assert image.header.get_xyzt_units()[0] == "mm"
        assert nibabel.aff2axcodes(image.affine) == spec.ORIENTATION
    brain = np.asarray(images["t1"].dataobj) > 0
    box = [int(np.ptp(indices)) + 1 for indices in np.nonzero(brain)]
    np.testing.assert_allclose(box, (138, 169, 138), atol=8)
    mask = np.asarray(images["seg"].dataobj)
    assert np.unique(mask).tolist() == [0, 1, 2, 4]
    tumour_in_crop = np.count_nonzero(mask[48:192, 48:192, 5:149])
    assert tumour_in_crop > 0.999 * np.count_nonzero(mask)
    assert 20e3 < tumour_in_crop < 125e3


def test_the_files_contain_the_case_in_memory(phantoms):
    phantom = generate.make_case(5, 1, shape=SMALL)
    np.testing.assert_array_equal(phantoms[1].volumes, phantom.volumes)
    np.testing.assert_array_equal(phantoms[1].mask, phantom.mask)
    assert (phantom.volumes.dtype, phantom.mask.dtype) == (np.int16, np.uint8)


def test_bytes_depend_on_seed_and_index_only(cohort, tmp_path):
    # Fewer cases and more processes give the same bytes.
    reported = []
    folders = generate.write_cohort(tmp_path, 2, 5, shape=SMALL, jobs=2, progress=reported.append)
    assert [folder.name for folder in folders] == ["BraTS20_Training_001", "BraTS20_Training_002"]
    assert reported == folders
    digests = _digests(cohort)
    assert _digests(tmp_path).items() <= digests.items()
    assert len(set(digests.values())) == len(digests) == 3 * 5 + 4


def test_another_seed_gives_another_head(phantoms):
    phantom = generate.make_case(6, 0, shape=SMALL)
    assert ((phantom.volumes[..., 0] > 0) != (phantoms[0].volumes[..., 0] > 0)).any()
    assert (phantom.mask != phantoms[0].mask).any()


def test_all_modalities_are_zero_outside_the_same_brain(phantoms):
    for case in phantoms:
        brain = case.volumes > 0
        assert (brain == brain[..., :1]).all()
        assert not case.mask[~brain[..., 0]].any()
        assert 0.15 < brain[..., 0].mean() < 0.25
        assert not brain[[0, -1]].any() and not brain[:, [0, -1]].any()


def test_every_eighth_case_has_no_enhancing_tumour(phantoms):
    assert [bool((case.mask == 4).any()) for case in phantoms] == [True, True, False]
    assert all((case.mask == value).any() for case in phantoms for value in (1, 2))
    eleventh = generate.make_case(5, 10, shape=(60, 60, 40))
    assert np.unique(eleventh.mask).tolist() == [0, 1, 2]


def test_the_rim_encloses_necrosis_and_edema_encloses_the_core(phantoms):
    for case in phantoms:
        core = np.isin(case.mask, (1, 4))
        around = ndimage.binary_dilation(core, iterations=2) & ~core
        assert (case.mask[around] == 2).all()
        necrosis = case.mask == 1
        if (case.mask == 4).any():
            around = ndimage.binary_dilation(necrosis) & ~necrosis
            assert (case.mask[around] == 4).mean() > 0.9


def test_the_contrast_of_the_tumour_is_that_of_each_modality(phantoms):
    # Mean intensity of each label relative to the healthy brain, in the first case.
    volumes, mask = phantoms[0].volumes, phantoms[0].mask
    healthy = volumes[(volumes[..., 0] > 0) & (mask == 0)].mean(axis=0)
    ratios = {
        (name, value): ratio
        for value in (1, 2, 4)
        for name, ratio in zip(spec.MODALITIES, volumes[mask == value].mean(0) / healthy)
    }
    assert ratios["flair", 2] > 1.2 and ratios["t2", 2] > 1.05 > 1 > ratios["t1", 2]
    assert ratios["t1ce", 4] > 1.3 and ratios["t1", 4] < 1
    assert ratios["t2", 1] > ratios["t2", 2] and ratios["t1", 1] < ratios["t1", 2]


@pytest.mark.parametrize("normalised", (False, True))
def test_no_threshold_can_segment_the_tumours(phantoms, normalised):
    def channel(modality):
        images = [case.volumes[CROP][..., spec.MODALITIES.index(modality)] for case in phantoms]
        return [(image - image.mean()) / image.std() if normalised else image for image in images]

    masks = [case.mask[CROP] for case in phantoms]
    whole, _ = best_threshold_dice(channel("flair"), [mask > 0 for mask in masks])
    enhancing, _ = best_threshold_dice(channel("t1ce"), [mask == 4 for mask in masks])
    assert 0.3 < whole <= 0.75
    assert 0.05 < enhancing <= 0.50


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cases": -1}, "cases: got -1"),
        ({"cases": 0}, "at least one case"),
        ({"seed": -3}, "seed: got -3"),
        ({"jobs": 0}, "jobs: got 0"),
        ({"shape": (240, 240, 20)}, "three sizes of 40 or more"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_written(tmp_path, changes, message):
    arguments = {"cases": 1, "seed": 0, **changes}
    with pytest.raises(InputError, match=message):
        generate.write_cohort(tmp_path / "cohort", **arguments)
    assert not (tmp_path / "cohort").exists()


def _digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.glob("*/*.nii.gz"))
    }
