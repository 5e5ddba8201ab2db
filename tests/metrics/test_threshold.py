"""The threshold baseline, on numbers small enough to work out by hand."""

import numpy as np
import pytest

from brats_tfrecord.metrics.threshold import best_threshold_dice


def test_a_clean_threshold_scores_one():
    dice, threshold = best_threshold_dice(
        [np.array([[1, 2], [8, 9]])], [np.array([[0, 0], [1, 1]])]
    )
    assert (dice, threshold) == (1.0, 8.0)


def test_one_bright_stranger_costs_what_dice_says():
    # At 5: predicted 5, 9, 7; truth 5, 9; Dice 2*2/(3+2) = 0.8. At 9: 2*1/(1+2) = 0.67.
    dice, threshold = best_threshold_dice([np.array([1, 5, 9, 7])], [np.array([0, 1, 1, 0])])
    assert dice == pytest.approx(0.8)
    assert threshold == 5.0


def test_the_threshold_is_one_for_the_whole_cohort():
    # Each case alone has a perfect threshold, 2 and 6. Together: at 2 the cases give 1 and
    # 2*1/(3+1) = 0.5, mean 0.75; at 6 they give 0 and 1, mean 0.5.
    images = [np.array([0, 1, 2]), np.array([[4, 5], [6, 0]])]
    truths = [np.array([0, 0, 1]), np.array([[0, 0], [1, 0]])]
    assert best_threshold_dice(images, truths) == (0.75, 2.0)
    assert best_threshold_dice(images[:1], truths[:1]) == (1.0, 2.0)
    assert best_threshold_dice(images[1:], truths[1:]) == (1.0, 6.0)


def test_a_case_without_truth_scores_one_only_where_nothing_is_predicted():
    # At 3: 1 and, the empty case holding a 4, 0. At infinity: 0 and 1. A tie keeps the lower.
    images, truths = [np.array([1, 3]), np.array([1, 4])], [np.array([0, 1]), np.array([0, 0])]
    assert best_threshold_dice(images, truths) == (0.5, 3.0)
    assert best_threshold_dice(images[1:], truths[1:]) == (1.0, np.inf)


def test_few_candidates_can_only_do_worse():
    image = np.arange(100)
    truth = (image >= 90) | (image == 3)
    many, _ = best_threshold_dice([image], [truth])
    # One quantile is the lowest value inside the truth: 3. Predicted 97, common 11.
    few, threshold = best_threshold_dice([image], [truth], thresholds=1)
    assert (few, threshold) == (pytest.approx(22 / 108), 3.0)
    assert many == pytest.approx(20 / 21)


@pytest.mark.parametrize(
    "images, truths, thresholds, message",
    [
        ([], [], 64, "at least one"),
        ([np.zeros(2)], [], 64, "one truth"),
        ([np.zeros(2)], [np.zeros(3)], 64, "equal shapes"),
        ([np.zeros(2)], [np.zeros(2)], 0, "thresholds: got 0"),
    ],
)
def test_misfits_are_named(images, truths, thresholds, message):
    with pytest.raises(ValueError, match=message):
        best_threshold_dice(images, truths, thresholds)
