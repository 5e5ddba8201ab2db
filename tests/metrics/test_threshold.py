"""The threshold baseline on intensities that can be thresholded by hand."""

import numpy as np
import pytest

from brats_tfrecord.metrics.threshold import best_threshold_dice


def test_perfect_threshold_has_dice_one():
    dice, threshold = best_threshold_dice(
        [np.array([[1, 2], [8, 9]])], [np.array([[0, 0], [1, 1]])]
    )
    assert (dice, threshold) == (1.0, 8.0)


def test_bright_background_voxel_lowers_dice():
    # At 5: predicted 5, 9, 7; truth 5, 9; Dice 2*2/(3+2) = 0.8. At 9: 2*1/(1+2) = 0.67.
    dice, threshold = best_threshold_dice([np.array([1, 5, 9, 7])], [np.array([0, 1, 1, 0])])
    assert dice == pytest.approx(0.8)
    assert threshold == 5.0


def test_threshold_is_shared_by_the_cohort():
    # Each case alone has a perfect threshold, 2 and 6. Together: at 2 the cases give 1 and
    # 2*1/(3+1) = 0.5, mean 0.75; at 6 they give 0 and 1, mean 0.5.
    images = [np.array([0, 1, 2]), np.array([[4, 5], [6, 0]])]
    truths = [np.array([0, 0, 1]), np.array([[0, 0], [1, 0]])]
    assert best_threshold_dice(images, truths) == (0.75, 2.0)
    assert best_threshold_dice(images[:1], truths[:1]) == (1.0, 2.0)
    assert best_threshold_dice(images[1:], truths[1:]) == (1.0, 6.0)


def test_case_without_tumour_has_dice_one_if_nothing_is_predicted():
    # At 3: 1 and, the empty case holding a 4, 0. At infinity: 0 and 1. A tie keeps the lower.
    images, truths = [np.array([1, 3]), np.array([1, 4])], [np.array([0, 1]), np.array([0, 0])]
    assert best_threshold_dice(images, truths) == (0.5, 3.0)
    assert best_threshold_dice(images[1:], truths[1:]) == (1.0, np.inf)


def test_lowest_voxel_of_the_truth_may_be_missed():
    image = np.arange(100)
    truth = (image >= 90) | (image == 3)
    # At 90 the voxel of 3 is missed; at 3 there are 86 false voxels.
    dice, threshold = best_threshold_dice([image], [truth])
    assert (dice, threshold) == (pytest.approx(20 / 21), 90.0)


@pytest.mark.parametrize(
    "images, truths, message",
    [
        ([], [], "at least one"),
        ([np.zeros(2)], [], "one truth"),
        ([np.zeros(2)], [np.zeros(3)], "equal shapes"),
    ],
)
def test_invalid_cases_are_named(images, truths, message):
    with pytest.raises(ValueError, match=message):
        best_threshold_dice(images, truths)
