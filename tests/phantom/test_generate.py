"""The phantom cohort: what its files are, what lies in them, and that it is no giveaway."""

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
"""The small volume's counterpart of the fixed crop."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Folder of three small labelled cases and one without a mask."""
    root = tmp_path_factory.mktemp("phantoms")
    generate.write_cohort(root, 3, 5, unlabelled=1, shape=SMALL)
    return root


@pytest.fixture(scope="module")
def made(cohort):
    """Its three labelled cases, as read back."""
    raw = [nifti.read_case(case) for case in layouts.find_cases(cohort)[:3]]
    return [generate.Phantom(case.volumes, case.mask) for case in raw]


def test_files_have_the_names_that_find_cases_knows(cohort):
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


def test_a_full_size_case_lies_as_brats_does(tmp_path):
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
    cut = np.count_nonzero(mask[48:192, 48:192, 5:149])
    assert cut > 0.999 * np.count_nonzero(mask)
    assert 20e3 < cut < 125e3


def test_what_is_written_is_what_was_made(made):
    straight = generate.make_case(5, 1, shape=SMALL)
    np.testing.assert_array_equal(made[1].volumes, straight.volumes)
    np.testing.assert_array_equal(made[1].mask, straight.mask)
    assert (straight.volumes.dtype, straight.mask.dtype) == (np.int16, np.uint8)


def test_bytes_depend_on_seed_and_index_alone(cohort, tmp_path):
    # Fewer cases and other processes; the same bytes.
    seen = []
    folders = generate.write_cohort(tmp_path, 2, 5, shape=SMALL, jobs=2, progress=seen.append)
    assert [folder.name for folder in folders] == ["BraTS20_Training_001", "BraTS20_Training_002"]
    assert seen == folders
    digests = _digests(cohort)
    assert _digests(tmp_path).items() <= digests.items()
    assert len(set(digests.values())) == len(digests) == 3 * 5 + 4


def test_another_seed_makes_another_head(made):
    other = generate.make_case(6, 0, shape=SMALL)
    assert ((other.volumes[..., 0] > 0) != (made[0].volumes[..., 0] > 0)).any()
    assert (other.mask != made[0].mask).any()


def test_outside_the_brain_is_zero_in_all_modalities_alike(made):
    for case in made:
        brain = case.volumes > 0
        assert (brain == brain[..., :1]).all()
        assert not case.mask[~brain[..., 0]].any()
        assert 0.15 < brain[..., 0].mean() < 0.25
        assert not brain[[0, -1]].any() and not brain[:, [0, -1]].any()


def test_every_eighth_case_has_no_enhancing_tumour(made):
    assert [bool((case.mask == 4).any()) for case in made] == [True, True, False]
    assert all((case.mask == value).any() for case in made for value in (1, 2))
    tenth = generate.make_case(5, 10, shape=(60, 60, 40))
    assert np.unique(tenth.mask).tolist() == [0, 1, 2]


def test_necrosis_lies_in_the_rim_and_the_core_in_edema(made):
    for case in made:
        core = np.isin(case.mask, (1, 4))
        around = ndimage.binary_dilation(core, iterations=2) & ~core
        assert (case.mask[around] == 2).all()
        necrosis = case.mask == 1
        if (case.mask == 4).any():
            around = ndimage.binary_dilation(necrosis) & ~necrosis
            assert (case.mask[around] == 4).mean() > 0.9


def test_tissue_contrast_is_each_modality_s_own(made):
    # Mean of a label against that of the healthy brain, in the first case.
    volumes, mask = made[0].volumes, made[0].mask
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
def test_no_threshold_finds_the_tumours(made, normalised):
    def channel(modality):
        images = [case.volumes[CROP][..., spec.MODALITIES.index(modality)] for case in made]
        return [(image - image.mean()) / image.std() if normalised else image for image in images]

    masks = [case.mask[CROP] for case in made]
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
def test_bad_wishes_are_refused_before_anything_is_written(tmp_path, changes, message):
    wishes = {"cases": 1, "seed": 0, **changes}
    with pytest.raises(InputError, match=message):
        generate.write_cohort(tmp_path / "never", **wishes)
    assert not (tmp_path / "never").exists()


def _digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.glob("*/*.nii.gz"))
    }
