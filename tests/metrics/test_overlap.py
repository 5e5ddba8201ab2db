"""Overlap metrics on masks whose voxels can be counted by hand."""

import numpy as np
import pytest

from brats_tfrecord.metrics import overlap


def test_confusion_has_truth_in_rows_and_prediction_in_columns():
    truth = np.array([[[0, 1, 2, 3, 3]]], np.uint8)
    prediction = np.array([[[0, 2, 2, 3, 0]]], np.uint8)
    expected = np.zeros((4, 4), int)
    expected[0, 0] = expected[1, 2] = expected[2, 2] = expected[3, 3] = expected[3, 0] = 1
    np.testing.assert_array_equal(overlap.confusion(truth, prediction, 4), expected)


def test_confusion_of_large_uint8_ids_does_not_overflow():
    ids = np.full((1, 1, 2), 200, np.uint8)
    assert overlap.confusion(ids, ids, 201)[200, 200] == 2


def test_region_counts_ignore_confusion_within_the_region():
    matrix = np.array([[50, 0, 3, 2], [1, 10, 4, 5], [6, 0, 20, 7], [0, 8, 9, 30]])
    counts = overlap.region_counts(matrix, (1, 3))
    assert counts == overlap.Counts(
        true_positive=10 + 5 + 8 + 30,
        false_positive=0 + 2 + 0 + 7,
        false_negative=1 + 4 + 0 + 9,
        true_negative=50 + 3 + 6 + 20,
    )


def test_ratios_by_hand():
    counts = overlap.Counts(true_positive=6, false_positive=2, false_negative=4, true_negative=18)
    assert overlap.dice(counts) == pytest.approx(12 / 18)
    assert overlap.sensitivity(counts) == pytest.approx(6 / 10)
    assert overlap.specificity(counts) == pytest.approx(18 / 20)
    assert (counts.truth, counts.prediction) == (10, 8)
    assert overlap.volume_error_ml(counts, (1, 2, 5)) == pytest.approx(-2 * 10 / 1000)


def test_ratios_with_denominator_zero_are_none():
    empty = overlap.Counts(0, 0, 0, true_negative=5)
    full = overlap.Counts(true_positive=5, false_positive=0, false_negative=0, true_negative=0)
    assert overlap.dice(empty) is None
    assert overlap.sensitivity(empty) is None
    assert overlap.specificity(full) is None
