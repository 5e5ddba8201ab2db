"""Lesion-wise metrics of BraTS 2023 on boxes whose overlap can be counted by hand."""

import numpy as np
import pytest

from brats_tfrecord.metrics import lesions

SHAPE = (40, 24, 20)
MM = (1, 1, 1)
ONCE = lesions.LesionRules(dilations=1, smallest_mm3=2)


def boxes(*corners):
    """A mask of boxes of 4 x 4 x 4 voxels, 64 mm³ at 1 mm, one at each corner."""
    mask = np.zeros(SHAPE, bool)
    for x, y, z in corners:
        mask[x : x + 4, y : y + 4, z : z + 4] = True
    return mask


def test_matched_missed_and_false_lesions_are_averaged():
    truth = boxes((2, 2, 2), (30, 2, 2))
    prediction = boxes((3, 2, 2), (2, 18, 14))  # one voxel off; far from both
    figures = lesions.figures(truth, prediction, MM)
    # The first lesion overlaps in 3 of 4 slices; the surfaces are at most 1 mm apart.
    assert figures == {
        "lesion_dice": pytest.approx((0.75 + 0 + 0) / 3),
        "lesion_hd95": pytest.approx((1 + 374 + 374) / 3),
        "lesions": 2,
        "missed_lesions": 1,
        "false_lesions": 1,
    }


@pytest.mark.parametrize(
    "rules, gap, expected",
    [
        # Two dilations of three voxels each fill a gap of six voxels, of one voxel each two.
        (lesions.GLIOMA, 5, 1),
        (lesions.GLIOMA, 6, 1),
        (lesions.GLIOMA, 7, 2),
        (lesions.MENINGIOMA, 2, 1),
        (lesions.MENINGIOMA, 3, 2),
        (lesions.METASTASES, 2, 1),
        (lesions.METASTASES, 3, 2),
    ],
)
def test_lesions_whose_dilations_touch_are_one(rules, gap, expected):
    truth = boxes((2, 2, 2), (2 + 4 + gap, 2, 2))
    compared, false = lesions.compare_lesions(truth, boxes((2, 2, 2)), MM, rules)
    assert (len(compared), false) == (expected, 0)
    if expected == 1:
        assert compared[0].dice == pytest.approx(2 * 64 / (128 + 64))
        assert compared[0].volume_mm3 == 128
    else:
        assert [lesion.dice for lesion in compared] == [1, 0]
        assert [lesion.hd95 for lesion in compared] == [0, None]


@pytest.mark.parametrize(
    "rules, gap, expected",
    [(lesions.GLIOMA, 2, 0), (lesions.GLIOMA, 3, 1), (ONCE, 0, 0), (ONCE, 1, 1)],
)
def test_component_that_touches_a_dilation_is_not_false(rules, gap, expected):
    truth, prediction = boxes((2, 2, 2)), boxes((2, 2, 2))
    prediction[2 + 4 + gap, 3, 3] = True  # one voxel with `gap` voxels between
    compared, false = lesions.compare_lesions(truth, prediction, MM, rules)
    assert false == expected
    assert compared[0].dice == pytest.approx(1 if expected else 2 * 64 / (64 + 65))


def test_dilation_uses_the_18_neighbourhood():
    truth, prediction = boxes((2, 2, 2)), np.zeros(SHAPE, bool)
    prediction[5 + 2, 5 + 2, 5 + 2] = True  # three steps of two axes each
    assert lesions.compare_lesions(truth, prediction, MM)[1] == 0
    prediction = np.zeros(SHAPE, bool)
    prediction[5 + 3, 5 + 3, 5 + 1] = True  # three steps in the 26-neighbourhood
    assert lesions.compare_lesions(truth, prediction, MM)[1] == 1


@pytest.mark.parametrize("voxels, expected", [(50, 0), (51, 1)])
def test_lesions_up_to_50_mm3_and_their_components_are_ignored(voxels, expected):
    truth = np.zeros(SHAPE, bool)
    truth[2:7, 2:7, 2:4].flat[:] = True  # 50
    truth[7, 2, 2] = voxels == 51
    figures = lesions.figures(truth, truth, MM)
    assert (figures["lesions"], figures["false_lesions"]) == (expected, 0)
    assert (figures["lesion_dice"], figures["lesion_hd95"]) == (1, 0)
    missed = lesions.figures(truth, np.zeros(SHAPE, bool), MM)
    assert missed["missed_lesions"] == expected
    assert missed["lesion_dice"] == (0 if expected else 1)


@pytest.mark.parametrize("voxels, expected", [(2, 0), (3, 1)])
def test_metastases_count_from_above_2_mm3_on(voxels, expected):
    truth = np.zeros(SHAPE, bool)
    truth[2, 2, 2 : 2 + voxels] = True
    assert lesions.figures(truth, truth, MM, lesions.METASTASES)["lesions"] == expected
    assert lesions.figures(truth, truth, MM, lesions.MENINGIOMA)["lesions"] == 0


def test_smallest_volume_is_in_cubic_millimetres():
    truth = np.zeros(SHAPE, bool)
    truth[2, 2, 2:5] = True
    assert lesions.figures(truth, truth, (1, 1, 16))["lesions"] == 0  # 48 mm³
    assert lesions.figures(truth, truth, (1, 1, 17))["lesions"] == 1  # 51 mm³


def test_component_over_two_lesions_is_matched_with_both():
    truth = boxes((2, 2, 2), (30, 2, 2))
    prediction = truth.copy()
    prediction[2:34, 3, 3] = True
    compared, false = lesions.compare_lesions(truth, prediction, MM)
    size = np.count_nonzero(prediction)
    assert false == 0
    assert [lesion.dice for lesion in compared] == [pytest.approx(2 * 64 / (64 + size))] * 2


def test_diagonal_neighbours_are_one_component():
    prediction = np.zeros(SHAPE, bool)
    prediction[20, 20, 10] = prediction[21, 21, 11] = True
    assert lesions.figures(boxes((2, 2, 2)), prediction, MM)["false_lesions"] == 1
    prediction[23, 21, 11] = True
    assert lesions.figures(boxes((2, 2, 2)), prediction, MM)["false_lesions"] == 2


def test_whole_hd95_is_used_only_for_a_single_lesion_without_false_components():
    truth, prediction = boxes((2, 2, 2)), boxes((3, 2, 2))
    second = boxes((30, 2, 2))
    assert lesions.figures(truth, prediction, MM, whole_hd95=9.0)["lesion_hd95"] == 9
    for pair in ((truth | second, prediction), (truth, prediction | second)):
        assert lesions.figures(*pair, MM, whole_hd95=9.0)["lesion_hd95"] == pytest.approx(375 / 2)
