import json

import numpy as np
import pytest

from brats_tfrecord import spec
from brats_tfrecord.cohort.nifti import Geometry, RawCase
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.preprocess.normalize import zscore
from brats_tfrecord.preprocess.recipe import Recipe

SHAPE = (7, 8, 9)
SMALL = Recipe(bias_correction="none", crop_origin=(1, 2, 3), crop_shape=(5, 4, 3))


def raw_case(mask=None, shape=SHAPE):
    volumes = np.random.default_rng(0).integers(1, 900, (*shape, 4)).astype(np.float32)
    return RawCase("A_001", "A_001", None, "brats2020", spec.MODALITIES, volumes, mask,
                   Geometry(shape, np.diag([-1.0, -1, 1, 1])))


def test_zscore_over_all_voxels():
    volume = np.array([[[0, 0, 3, 5]]])
    np.testing.assert_allclose(zscore(volume) * np.sqrt(4.5), [[[-2, -2, 1, 3]]], rtol=1e-6)
    assert zscore(volume).dtype == np.float32
    assert not zscore(np.full((2, 2, 2), 7)).any()


def test_json_round_trip_in_full():
    recipe = Recipe("ants", "get_mask", (1, 2, 3), (4, 5, 6), "float32")
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert Recipe().crop_origin == (48, 48, 5) and Recipe().crop_shape == (144, 144, 144)


@pytest.mark.parametrize("change", [{"bias_correction": "n5"}, {"image_dtype": "int8"},
                                    {"crop_shape": (4, 5)}, {"crop_shape": (0, 1, 1)}])
def test_what_is_no_recipe_is_refused(change):
    with pytest.raises(InputError, match="expected"):
        Recipe(**change)


def test_another_versions_recipe_is_refused():
    with pytest.raises(InputError, match="use the version that wrote it"):
        Recipe.from_json({**Recipe().to_json(), "resample": "1mm"})


def test_apply_crops_normalises_and_keeps_the_books():
    mask = np.zeros(SHAPE, np.int16)
    mask[2, 3, 4], mask[3, 4, 5], mask[5, 5, 5] = 1, 2, 4
    mask[0, 0, 0], mask[6, 7, 8] = 4, 2  # outside the window
    raw = raw_case(mask)
    done = SMALL.apply(raw)
    assert done.image.shape == (5, 4, 3, 4) and done.image.dtype == np.float16
    for channel in range(4):
        window = raw.volumes[1:6, 2:6, 3:6, channel].astype(np.float64)
        expected = (window - window.mean()) / window.std()
        np.testing.assert_allclose(done.image[..., channel], expected, rtol=2**-10, atol=1e-4)
    np.testing.assert_array_equal(np.argwhere(done.classes), [[1, 1, 1], [2, 2, 2], [4, 3, 2]])
    np.testing.assert_array_equal(done.classes[[1, 2, 4], [1, 2, 3], [1, 2, 2]],
                                  [spec.NCR, spec.ED, spec.ET])
    np.testing.assert_array_equal(done.outside_index, [[0, 0, 0], [6, 7, 8]])
    np.testing.assert_array_equal(done.outside_classes, [spec.ET, spec.ED])
    assert done.class_voxels == (7 * 8 * 9 - 5, 1, 2, 2)
    assert done.brain_voxels == 7 * 8 * 9 and done.brain_voxels_lost == 7 * 8 * 9 - 5 * 4 * 3
    back = SMALL.to_native(done.classes, SHAPE)
    inside = (slice(1, 6), slice(2, 6), slice(3, 6))
    np.testing.assert_array_equal(np.array([0, 1, 2, 4])[back][inside], mask[inside])


def test_a_flat_channel_is_zeros_and_a_warning():
    raw = raw_case()
    raw.volumes[..., 1] = 0
    done = SMALL.apply(raw)
    assert not done.image[..., 1].any()
    assert done.warnings == ("t1ce does not vary within the crop; stored as zeros",)
    assert done.classes is None and done.class_voxels == ()


def test_a_window_that_does_not_fit_names_the_flag():
    with pytest.raises(CaseError, match="A_001: the crop window 48:192,48:192,5:149 does not fit "
                                        "into its 7x8x9 voxels; .*--crop_window"):
        Recipe(bias_correction="none").apply(raw_case())


def test_correction_gives_the_same_bits_whatever_the_threads(small_cohort):
    from threadpoolctl import threadpool_limits

    from brats_tfrecord.cohort import layouts, nifti
    volumes = nifti.read_case(layouts.find_cases(small_cohort)[0], ("t1", "flair")).volumes
    with threadpool_limits(2):
        two = Recipe().correct(volumes)
    with threadpool_limits(1):
        one = Recipe().correct(volumes)
    np.testing.assert_array_equal(one, two)
