import numpy as np
import pytest

from brats_tfrecord import spec
from brats_tfrecord.cohort.geometry import Geometry, RawCase
from brats_tfrecord.preprocess import masks
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import example

RECIPE = Recipe(bias_correction="none", crop_origin=(1, 1, 2), crop_shape=(4, 5, 3))
# The file lay as (superior, left, anterior): shape and affine are the file's, arrays are LPS.
AFFINE = np.array([[0, -1.0, 0, 80], [0, 0, 1.0, -100], [1.0, 0, 0, -60], [0, 0, 0, 1]])
GEOMETRY = Geometry((8, 6, 7), AFFINE, xyzt_units=10, qform_code=2, sform_code=4)


def raw_case(labelled=True):
    rng = np.random.default_rng(0)
    assert GEOMETRY.lps_shape == (6, 7, 8)
    mask = rng.choice([0, 1, 2, 4], (6, 7, 8)).astype(np.int16) if labelled else None
    volumes = rng.normal(300, 90, (6, 7, 8, 4)).astype(np.float32)
    return RawCase("A_001", "A", "HGG", "brats2020", spec.MODALITIES, volumes, mask, GEOMETRY)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_encoded_comes_back(dtype):
    recipe = Recipe("none", "positive", RECIPE.crop_origin, RECIPE.crop_shape, dtype)
    raw = raw_case()
    done = recipe.apply(raw)
    stored = example.decode(example.encode(raw, done, recipe), dtype)
    assert (stored.case_id, stored.patient_id, stored.label_scheme) == ("A_001", "A", "brats2020")
    assert stored.modalities == spec.MODALITIES and stored.crop_origin == (1, 1, 2)
    assert stored.image.dtype == dtype
    np.testing.assert_array_equal(stored.image, done.image)
    np.testing.assert_array_equal(stored.classes, done.classes)
    np.testing.assert_array_equal(stored.geometry.affine, AFFINE)
    assert stored.geometry.shape == (8, 6, 7) and stored.geometry.lps_shape == (6, 7, 8)
    assert (stored.geometry.xyzt_units, stored.geometry.qform_code, stored.geometry.sform_code) == (
        10,
        2,
        4,
    )


def test_the_truth_is_whole_though_the_window_cuts_it():
    raw = raw_case()
    stored = example.decode(example.encode(raw, RECIPE.apply(raw), RECIPE), "float16")
    assert len(stored.outside_index) > 0
    expected = masks.to_classes(raw.mask, spec.LABEL_SCHEMES["brats2020"], "A_001")
    np.testing.assert_array_equal(stored.native_classes(), expected)


def test_an_unlabelled_case_has_no_mask():
    raw = raw_case(labelled=False)
    record = example.encode(raw, RECIPE.apply(raw), RECIPE)
    assert example.decode(record, "float16").native_classes() is None


def test_equal_cases_give_equal_bytes():
    raw = raw_case()
    assert example.encode(raw, RECIPE.apply(raw), RECIPE) == example.encode(
        raw, RECIPE.apply(raw_case()), RECIPE
    )
