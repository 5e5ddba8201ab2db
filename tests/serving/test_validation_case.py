"""The Dice of a validation case from counts equals that of the corrected label map."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brats_tfrecord import spec
from brats_tfrecord.metrics import overlap
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.validation_case import ValidationCase

SPACING_MM = (1.0, 0.5, 3.0)  # 1.5 mm³


def dice_of_label_maps(truth, prediction, post_processing):
    classes = post_processing.without_small_enhancing_tumour(prediction)
    classes = post_processing.without_small_components(classes, SPACING_MM)
    matrix = overlap.confusion(truth, classes, len(spec.CLASS_NAMES))
    scores = [overlap.dice(overlap.region_counts(matrix, r)) for r in spec.REGIONS.values()]
    return [1.0 if score is None else score for score in scores]


def label_map(seed, shape, background):
    """Makes uint8 labels of all classes in random specks of 2³ voxels."""
    rng = np.random.default_rng(seed)
    shares = [background, *[(1 - background) / 4] * 4]
    specks = rng.choice(5, [-(-extent // 2) for extent in shape], p=shares)
    grown = specks.repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(map(slice, shape))]
    noise = rng.random(shape) < 0.1
    return np.where(noise, rng.choice(5, shape), grown).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(1, 13)] * 3),
    st.sampled_from([0.5, 0.9, 1.0]),
    st.integers(0, 120),
    st.tuples(*[st.sampled_from([0.0, 1.0, 1.5, 2.0, 12.0, 15.0, 60.0, 1e6])] * 3),
)
def test_counts_give_the_dice_of_the_corrected_label_map(seed, shape, background, voxels, mm3):
    truth, prediction = label_map(seed + 1, shape, background), label_map(seed, shape, background)
    post_processing = PostProcessing(voxels, mm3)
    result = ValidationCase.from_label_maps("a", truth, prediction, SPACING_MM)
    np.testing.assert_allclose(
        result.dice(post_processing), dice_of_label_maps(truth, prediction, post_processing)
    )


def test_empty_label_maps_agree():
    empty, one = np.zeros((3, 4, 5), np.uint8), np.zeros((3, 4, 5), np.uint8)
    one[1, 2, 3] = 2
    for truth, prediction, expected in ((empty, empty, [1, 1, 1]), (one, empty, [0, 1, 1])):
        result = ValidationCase.from_label_maps("a", truth, prediction, SPACING_MM)
        np.testing.assert_array_equal(result.dice(PostProcessing(9, (9.0, 9.0, 9.0))), expected)
        assert not result.has_enhancing_tumour


@pytest.mark.parametrize("grid_voxels, replaced", [(1.0, True), (1.5, False)])
def test_the_enhancing_tumour_is_counted_on_the_grid_of_the_recipe(grid_voxels, replaced):
    """Ten voxels of a case that the recipe resamples to one and a half times as many."""
    prediction = np.zeros((12, 3, 2), np.uint8)
    prediction[:10, 1, 1] = 3
    result = ValidationCase.from_label_maps("a", prediction, prediction, SPACING_MM, grid_voxels)
    np.testing.assert_array_equal(result.dice(PostProcessing(12)), [1, 1, 0 if replaced else 1])
