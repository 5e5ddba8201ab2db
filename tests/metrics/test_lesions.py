"""Lesion-wise figures of BraTS 2023: lesions placed by hand, and its definition to the letter."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from brats_tfrecord.metrics import lesions

SHAPE = (40, 24, 20)
MM = (1, 1, 1)


def boxes(*corners):
    """A mask of boxes of 4 x 4 x 4 voxels, 64 mm³ at 1 mm, one at each corner."""
    mask = np.zeros(SHAPE, bool)
    for x, y, z in corners:
        mask[x : x + 4, y : y + 4, z : z + 4] = True
    return mask


def test_one_found_one_missed_one_false():
    truth = boxes((2, 2, 2), (30, 2, 2))
    prediction = boxes((3, 2, 2), (2, 18, 14))  # one voxel off; far from both
    figures = lesions.figures(truth, prediction, MM)
    # Dice of the first: 3 of 4 slices. HD95: the surfaces are 1 mm apart at most.
    assert figures == {
        "lesion_dice": pytest.approx((0.75 + 0 + 0) / 3),
        "lesion_hd95": pytest.approx((1 + 374 + 374) / 3),
        "lesions": 2,
        "missed_lesions": 1,
        "false_lesions": 1,
    }


@pytest.mark.parametrize("gap, expected", [(5, 1), (6, 1), (7, 2)])
def test_lesions_within_three_dilations_of_each_other_are_one(gap, expected):
    # Dilations of three voxels each leave no room between boxes with six voxels between them.
    truth = boxes((2, 2, 2), (2 + 4 + gap, 2, 2))
    found, false = lesions.compare_lesions(truth, boxes((2, 2, 2)), MM)
    assert (len(found), false) == (expected, 0)
    if expected == 1:
        assert found[0].dice == pytest.approx(2 * 64 / (128 + 64))
        assert found[0].volume_mm3 == 128
    else:
        assert [lesion.dice for lesion in found] == [1, 0]
        assert [lesion.hd95 for lesion in found] == [0, None]


@pytest.mark.parametrize("gap, expected", [(2, 0), (3, 1)])
def test_a_component_that_touches_the_dilation_is_not_false(gap, expected):
    truth, prediction = boxes((2, 2, 2)), boxes((2, 2, 2))
    prediction[2 + 4 + gap, 3, 3] = True  # one voxel with `gap` voxels between
    found, false = lesions.compare_lesions(truth, prediction, MM)
    assert false == expected
    assert found[0].dice == pytest.approx(1 if expected else 2 * 64 / (64 + 65))


def test_diagonal_steps_of_the_dilation_are_those_of_the_18_neighbourhood():
    truth, prediction = boxes((2, 2, 2)), np.zeros(SHAPE, bool)
    prediction[5 + 2, 5 + 2, 5 + 2] = True  # three steps of two axes each
    assert lesions.compare_lesions(truth, prediction, MM)[1] == 0
    prediction = np.zeros(SHAPE, bool)
    prediction[5 + 3, 5 + 3, 5 + 1] = True  # would be three steps by corners
    assert lesions.compare_lesions(truth, prediction, MM)[1] == 1


@pytest.mark.parametrize("voxels, expected", [(50, 0), (51, 1)])
def test_lesions_of_50_mm3_are_left_out_and_what_is_at_them_is_not_false(voxels, expected):
    truth = np.zeros(SHAPE, bool)
    truth[2:7, 2:7, 2:4].flat[:] = True  # 50
    truth[7, 2, 2] = voxels == 51
    figures = lesions.figures(truth, truth, MM)
    assert (figures["lesions"], figures["false_lesions"]) == (expected, 0)
    assert (figures["lesion_dice"], figures["lesion_hd95"]) == (1, 0)
    missed = lesions.figures(truth, np.zeros(SHAPE, bool), MM)
    assert missed["missed_lesions"] == expected
    assert missed["lesion_dice"] == (0 if expected else 1)


def test_volume_is_in_cubic_millimetres():
    truth = np.zeros(SHAPE, bool)
    truth[2, 2, 2:5] = True
    assert lesions.figures(truth, truth, (1, 1, 16))["lesions"] == 0  # 48 mm³
    assert lesions.figures(truth, truth, (1, 1, 17))["lesions"] == 1  # 51 mm³


def test_a_component_over_two_lesions_counts_for_both():
    truth = boxes((2, 2, 2), (30, 2, 2))
    prediction = truth.copy()
    prediction[2:34, 3, 3] = True
    found, false = lesions.compare_lesions(truth, prediction, MM)
    size = np.count_nonzero(prediction)
    assert false == 0
    assert [lesion.dice for lesion in found] == [pytest.approx(2 * 64 / (64 + size))] * 2


def test_diagonal_neighbours_are_one_component():
    prediction = np.zeros(SHAPE, bool)
    prediction[20, 20, 10] = prediction[21, 21, 11] = True
    assert lesions.figures(boxes((2, 2, 2)), prediction, MM)["false_lesions"] == 1
    prediction[23, 21, 11] = True
    assert lesions.figures(boxes((2, 2, 2)), prediction, MM)["false_lesions"] == 2


def test_what_is_known_of_the_whole_is_used_only_where_it_is_the_lesion():
    truth, other = boxes((2, 2, 2)), boxes((3, 2, 2))
    assert lesions.figures(truth, other, MM, whole_hd95=9.0)["lesion_hd95"] == 9
    for two in ((truth | boxes((30, 2, 2)), other), (truth, other | boxes((30, 2, 2)))):
        assert lesions.figures(*two, MM, whole_hd95=9.0)["lesion_hd95"] == pytest.approx(375 / 2)


blobs = st.lists(
    st.tuples(st.tuples(*(st.integers(0, n - 1) for n in (18, 12, 13))), st.integers(1, 5)),
    max_size=6,
)


@settings(max_examples=60, derandomize=True)
@given(blobs, blobs, arrays.arrays(np.int8, 3, elements=st.sampled_from([1, 2])))
def test_equals_the_definition_followed_to_the_letter(truth, prediction, spacing_mm):
    masks = []
    for placed in (truth, prediction):
        mask = np.zeros((18, 12, 13), bool)
        for corner, size in placed:
            mask[tuple(slice(low, low + size) for low in corner)] = True
        masks.append(mask)
    assert lesions.figures(*masks, spacing_mm) == pytest.approx(by_definition(*masks, spacing_mm))


def by_definition(truth, prediction, spacing_mm):
    """One lesion after another, each dilated on its own, on the whole volume."""
    near, cube = (ndimage.generate_binary_structure(3, rank) for rank in (2, 3))
    components, count = ndimage.label(prediction, cube)
    groups, number = ndimage.label(ndimage.binary_dilation(truth, near, iterations=3), cube)
    dices, lengths, touched, missed = [], [], set(), 0
    for group in range(1, number + 1):
        lesion = truth & (groups == group)
        around = ndimage.binary_dilation(lesion, near, iterations=3)
        labels = set(components[around]) - {0}
        touched |= labels
        if lesion.sum() * np.prod(spacing_mm) <= 50:
            continue
        matched = np.isin(components, list(labels))
        dices.append(2 * (lesion & matched).sum() / (lesion.sum() + matched.sum()))
        missed += not labels
        lengths.append(pooled_hd95(lesion, matched, spacing_mm) if labels else 374)
    false = count - len(touched)
    total = len(dices) + false
    return {
        "lesion_dice": sum(dices) / total if total else 1,
        "lesion_hd95": (sum(lengths) + 374 * false) / total if total else 0,
        "lesions": len(dices),
        "missed_lesions": missed,
        "false_lesions": false,
    }


def pooled_hd95(lesion, matched, spacing_mm):
    pairs = cdist(
        *(
            (np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing_mm)
            for mask in (lesion, matched)
        )
    )
    return np.percentile(np.concatenate([pairs.min(0), pairs.min(1)]), 95)
