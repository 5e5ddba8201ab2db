"""The recipe: settings, windows, losses and the result of a case."""

import dataclasses
import json

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.cohort.nifti import RawCase
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.preprocess.normalize import zscore
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.preprocess.resample import classes_to, volumes_to

SHAPE = (7, 8, 9)
SMALL = Recipe(bias_correction="none", crop_origin=(1, 2, 3), crop_shape=(5, 4, 3), crop="fixed")
BRAIN = Recipe(bias_correction="none", crop_shape=(5, 4, 3), crop="brain")


def raw_case(mask=None, shape=SHAPE):
    volumes = np.random.default_rng(0).integers(1, 900, (*shape, 4)).astype(np.float32)
    return RawCase(
        "A_001",
        "A_001",
        None,
        "brats2020",
        spec.MODALITIES,
        volumes,
        mask,
        Geometry(shape, np.diag([-1.0, -1, 1, 1])),
    )


def test_zscore_is_over_all_voxels():
    volume = np.array([[[0, 0, 3, 5]]])
    np.testing.assert_allclose(zscore(volume) * np.sqrt(4.5), [[[-2, -2, 1, 3]]], rtol=1e-6)
    assert zscore(volume).dtype == np.float32
    assert not zscore(np.full((2, 2, 2), 7)).any()


def test_zscore_over_the_brain_leaves_the_background_0():
    volume = np.array([[[0, 3, 5, 0, 7]]])  # the brain has mean 5 and variance 8/3
    np.testing.assert_allclose(
        zscore(volume, region="brain") * np.sqrt(8 / 3), [[[0, -2, 0, 0, 2]]], rtol=1e-6
    )
    of_another = zscore(volume, np.array([0, 1, 3]), "brain")  # mean 2, deviation 1
    np.testing.assert_array_equal(of_another, [[[0, 1, 3, 0, 5]]])
    for constant in (np.zeros((2, 2, 2)), np.array([[[0, 4, 4]]])):
        assert not zscore(constant, region="brain").any()


def test_recipes_without_the_way_of_normalising_take_the_whole_crop():
    old = Recipe().to_json()
    assert "normalize" not in old and Recipe.from_json(old).normalize == "crop"
    assert Recipe.from_json(Recipe(normalize="brain").to_json()).normalize == "brain"


def test_json_round_trip():
    recipe = Recipe("ants", "get_mask", (1, 2, 3), (4, 5, 6), "float32", "brain", "1mm", "brain")
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert Recipe().crop_origin == (48, 48, 5) and Recipe().crop_shape == (144, 144, 144)


@pytest.mark.parametrize(
    "change",
    [
        {"bias_correction": "n5"},
        {"image_dtype": "int8"},
        {"crop": "head"},
        {"resample": "2mm"},
        {"normalize": "head"},
        {"crop_shape": (4, 5)},
        {"crop_shape": (0, 1, 1)},
    ],
)
def test_invalid_settings_are_errors(change):
    with pytest.raises(InputError, match="expected"):
        Recipe(**change)


def test_recipe_of_another_version_is_an_error():
    with pytest.raises(InputError, match="use the version that wrote it"):
        Recipe.from_json({**Recipe().to_json(), "denoise": "median"})


def test_apply_crops_normalises_and_counts_losses():
    mask = np.zeros(SHAPE, np.int16)
    mask[2, 3, 4], mask[3, 4, 5], mask[5, 5, 5] = 1, 2, 4
    mask[0, 0, 0], mask[6, 7, 8] = 4, 2  # outside the window
    raw = raw_case(mask)
    case = SMALL.apply(raw)
    assert case.image.shape == (5, 4, 3, 4) and case.image.dtype == np.float16
    for channel in range(4):
        window = raw.volumes[1:6, 2:6, 3:6, channel].astype(np.float64)
        expected = (window - window.mean()) / window.std()
        np.testing.assert_allclose(case.image[..., channel], expected, rtol=2**-10, atol=1e-4)
    np.testing.assert_array_equal(np.argwhere(case.classes), [[1, 1, 1], [2, 2, 2], [4, 3, 2]])
    np.testing.assert_array_equal(
        case.classes[[1, 2, 4], [1, 2, 3], [1, 2, 2]], [spec.NCR, spec.ED, spec.ET]
    )
    np.testing.assert_array_equal(case.outside_index, [[0, 0, 0], [6, 7, 8]])
    np.testing.assert_array_equal(case.outside_classes, [spec.ET, spec.ED])
    assert case.class_voxels == (7 * 8 * 9 - 5, 1, 2, 2)
    assert case.brain_voxels == 7 * 8 * 9 and case.brain_voxels_lost == 7 * 8 * 9 - 5 * 4 * 3
    assert case.crop_origin == (1, 2, 3) and case.grid_shape == SHAPE
    assert case.native_classes is None
    back = SMALL.to_grid(case.classes, case.crop_origin, SHAPE)
    inside = (slice(1, 6), slice(2, 6), slice(3, 6))
    np.testing.assert_array_equal(np.array([0, 1, 2, 4])[back][inside], mask[inside])


def test_constant_channel_is_zero_and_has_a_warning():
    raw = raw_case()
    raw.volumes[..., 1] = 0
    case = SMALL.apply(raw)
    assert not case.image[..., 1].any()
    assert case.warnings[0] == "t1ce does not vary within the crop; stored as zeros"
    assert case.classes is None and case.class_voxels == ()


def test_window_that_does_not_fit_is_an_error():
    with pytest.raises(
        CaseError,
        match="A_001: the crop window 48:192,48:192,5:149 does not fit "
        "into its 7x8x9 voxels; give --crop=brain, or a "
        "--crop_window that does",
    ):
        Recipe(bias_correction="none", crop="fixed").apply(raw_case())


def brain_at(box, shape=SHAPE):
    """A case whose FLAIR is positive only in `box`; the other channels are positive everywhere."""
    raw = raw_case(shape=shape)
    flair = raw.volumes[..., spec.MODALITIES.index("flair")]
    kept = flair[box].copy()
    flair[...] = 0
    flair[box] = kept
    return raw


@pytest.mark.parametrize(
    "box, origin",
    [
        (np.s_[2:7, 3:6, 5:8], (2, 2, 5)),  # the window is longer than the box by one along y
        (np.s_[0:2, 0:1, 8:9], (0, 0, 6)),  # shifted into the volume
        (np.s_[0:0, 0:0, 0:0], (1, 2, 3)),  # FLAIR is empty: the centre of the volume
    ],
)
def test_window_is_centred_on_the_brain_of_flair(box, origin):
    raw = brain_at(box)
    assert BRAIN.window(raw.volumes, raw.modalities) == origin
    case = BRAIN.apply(raw)
    assert case.crop_origin == origin
    inside = tuple(slice(first, first + size) for first, size in zip(origin, BRAIN.crop_shape))
    np.testing.assert_array_equal(case.image, SMALL.network_input(raw.volumes[inside], (0, 0, 0)))
    three = [spec.MODALITIES.index(name) for name in ("t2", "flair", "t1")]
    assert BRAIN.window(raw.volumes[..., three], ("t2", "flair", "t1")) == origin


def test_next_channel_is_the_reference_without_flair():
    raw = brain_at(np.s_[0:2, 0:2, 0:2])
    raw.volumes[..., 1] = 0
    raw.volumes[3:6, 3:6, 4:9, 1] = 5  # t1ce
    assert BRAIN.window(raw.volumes[..., :3], ("t1", "t1ce", "t2")) == (2, 2, 5)


def test_denormal_intensities_are_background():
    """TensorFlow treats them as zero, and must find the same box."""
    raw = brain_at(np.s_[2:7, 3:6, 5:8])
    raw.volumes[0, 0, 0, spec.MODALITIES.index("flair")] = 1e-40
    assert BRAIN.window(raw.volumes, raw.modalities) == (2, 2, 5)


def test_auto_window_is_fixed_only_on_the_grid_of_brats():
    raw = brain_at(np.s_[100:110, 20:30, 60:70], (240, 240, 155))
    assert Recipe().window(raw.volumes, raw.modalities) == (48, 48, 5)
    centred = (33, 0, 0)  # 105 - 72; 25 - 72 and 65 - 72 are shifted in
    assert Recipe(crop="brain").window(raw.volumes, raw.modalities) == centred
    cut = raw.volumes[:, :, :154]
    assert Recipe().window(cut, raw.modalities) == centred
    assert Recipe(crop="fixed").window(cut, raw.modalities) == (48, 48, 5)


def test_window_larger_than_the_volume_contains_it():
    mask = np.zeros(SHAPE, np.int16)
    mask[0, 0, 0], mask[6, 7, 8], mask[3, 4, 5] = 1, 2, 4
    recipe = Recipe(bias_correction="none", crop_shape=(12, 9, 10))  # auto
    case = recipe.apply(raw_case(mask))
    assert case.crop_origin == (-3, -1, -1)
    assert case.image.shape == (12, 9, 10, 4)
    assert case.brain_voxels_lost == 0 and not len(case.outside_index) and not case.warnings
    back = recipe.to_grid(case.classes, case.crop_origin, case.grid_shape)
    np.testing.assert_array_equal(np.array([0, 1, 2, 4])[back], mask)


def test_losses_above_the_thresholds_have_warnings():
    mask = np.zeros((10, 10, 20), np.int16)
    mask[:, :, 4:16] = 4
    mask[0, 0, 0] = 1
    raw = raw_case(mask, mask.shape)

    def warnings_of(shape):
        return (
            Recipe(bias_correction="none", crop_origin=(0, 0, 0), crop_shape=shape, crop="fixed")
            .apply(raw)
            .warnings
        )

    assert warnings_of((10, 10, 18)) == ()  # 10 % of the brain, no tumour
    assert [line[:47] for line in warnings_of((10, 10, 17))] == [
        "the crop cuts off 15.0% of the brain (300 voxel"
    ]
    both = warnings_of((10, 10, 15))
    assert both[0].startswith("the crop cuts off 25.0% of the brain")
    assert both[1].startswith("the crop cuts off 8.3% of the tumour (100 voxels)")
    mask[:, :, 4:16] = 0
    mask[:, :, :10] = 4
    mask[9, 9, 18] = 1  # one voxel of 1001 is under 0.1 %
    assert warnings_of((10, 10, 18)) == ()


def thick_case():
    """A case with slices of 3 mm and every label."""
    shape = (12, 14, 5)
    mask = np.zeros(shape, np.int16)
    mask[2:5, 3:6, 1], mask[4:8, 4:9, 2], mask[6:9, 5:8, 3], mask[0, 0, 0] = 1, 2, 4, 2
    raw = raw_case(mask, shape)
    return dataclasses.replace(raw, geometry=Geometry(shape, np.diag([-1.0, -1, 3, 1])))


def test_thick_slices_are_resampled_before_the_crop():
    recipe = Recipe(bias_correction="none", crop_shape=(8, 8, 12), resample="1mm")
    raw = thick_case()
    case = recipe.apply(raw)
    assert case.grid_shape == recipe.grid_shape(raw) == (12, 14, 15)
    on_grid = volumes_to((12, 14, 15), raw.volumes)
    assert case.crop_origin == (2, 3, 1) == recipe.window(on_grid, raw.modalities)
    np.testing.assert_array_equal(case.image, recipe.network_input(on_grid, (2, 3, 1)))
    np.testing.assert_array_equal(np.array([0, 1, 2, 4])[case.native_classes], raw.mask)
    grid_classes = classes_to((12, 14, 15), case.native_classes)
    np.testing.assert_array_equal(case.classes, grid_classes[2:10, 3:11, 1:13])
    assert set(np.unique(case.classes)) == {0, spec.NCR, spec.ED, spec.ET}
    assert case.class_voxels == tuple(np.bincount(grid_classes.ravel()))
    assert case.outside_index[0].tolist() == [0, 0, 0] and case.outside_classes[0] == spec.ED
    assert case.brain_voxels == 12 * 14 * 15


def test_grid_is_unchanged_without_resampling():
    raw = thick_case()
    assert SMALL.grid_shape(raw) == (12, 14, 5) and not SMALL.any_spacing
    near = dataclasses.replace(raw, geometry=Geometry((12, 14, 5), np.diag([-1, -1, 1.04, 1])))
    recipe = Recipe(bias_correction="none", crop_shape=(8, 8, 12), resample="1mm")
    assert recipe.any_spacing
    case = recipe.apply(near)
    assert case.grid_shape == (12, 14, 5) and case.native_classes is None


def test_correction_does_not_depend_on_the_number_of_threads(small_cohort):
    volumes = nifti.read_case(layouts.find_cases(small_cohort)[0], ("t1", "flair")).volumes
    with threadpool_limits(2):
        two_threads = Recipe().correct(volumes)
    with threadpool_limits(1):
        one_thread = Recipe().correct(volumes)
    np.testing.assert_array_equal(one_thread, two_threads)


def without(raw, *names):
    """The same case without some modalities."""
    raw = dataclasses.replace(raw, volumes=raw.volumes.copy(), missing=names)
    raw.volumes[..., [spec.MODALITIES.index(name) for name in names]] = 0
    return raw


def test_the_window_of_a_case_without_flair_is_centred_on_the_brain_of_t1ce():
    raw = brain_at(np.s_[0:2, 0:2, 0:2])
    raw.volumes[..., 1] = 0
    raw.volumes[3:6, 3:6, 4:9, 1] = 5
    assert BRAIN.window(raw.volumes, raw.modalities) == (0, 0, 0)
    assert BRAIN.window(without(raw, "flair").volumes, raw.modalities) == (2, 2, 5)
    box = BRAIN.covering_box(without(raw, "flair").volumes, raw.modalities, (2, 2, 5), 4)
    assert box == ((2, 2, 1), (5, 4, 11))  # the brain lies in z = 4 … 8


def test_missing_modalities_are_zeros_without_a_warning():
    recipe = dataclasses.replace(SMALL, bias_correction="n4")
    whole, lacking = recipe.apply(raw_case()), recipe.apply(without(raw_case(), "t1", "flair"))
    assert not lacking.image[..., [0, 3]].any() and lacking.warnings == whole.warnings
    np.testing.assert_array_equal(lacking.image[..., 1:3], whole.image[..., 1:3])


def test_a_channel_of_zeros_is_not_corrected(monkeypatch):
    """The mask of ANTs, for one, needs voxels above the mean."""
    monkeypatch.setattr("brats_tfrecord.preprocess.n4.get_mask", None)
    recipe = dataclasses.replace(SMALL, bias_correction="ants", bias_mask="get_mask")
    volumes = np.zeros((*SHAPE, 2), np.float32)
    np.testing.assert_array_equal(recipe.correct(volumes), volumes)


def test_settings_name_every_field_for_comparison():
    crop, brain = Recipe().settings(), Recipe(normalize="brain").settings()
    assert crop.keys() == brain.keys()
    assert [name for name in crop if crop[name] != brain[name]] == ["normalize"]
