"""`case_metrics`: regions, the rules for empties, and what every comparison must obey."""

import json

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brats_tfrecord import metrics, spec
from brats_tfrecord.metrics.case import HD95_ONE_EMPTY_MM

SPACING_MM = (1.0, 1.5, 2.0)

label_maps = arrays.arrays(np.uint8, (4, 6, 5), elements=st.integers(0, 3))


def onion():
    """A tumour with every class: necrosis in a rim in an edema, off centre, not cubic."""
    classes = np.zeros((12, 10, 9), np.uint8)
    classes[2:9, 2:8, 1:6] = spec.ED
    classes[3:7, 3:7, 2:5] = spec.ET
    classes[4:6, 4:6, 3:4] = spec.NCR
    return classes


def test_identical_maps_are_perfect():
    for figures in metrics.case_metrics(onion(), onion(), SPACING_MM).values():
        assert figures == {"dice": 1, "hd95": 0, "sensitivity": 1, "specificity": 1}


def test_regions_and_figures_of_one_shift_by_hand():
    truth = onion()
    prediction = np.roll(truth, 1, axis=2)  # 1 voxel of 2 mm
    result = metrics.case_metrics(truth, prediction, SPACING_MM)
    assert list(result) == ["WT", "TC", "ET"]
    # WT is 7 x 6 x 5, TC 4 x 4 x 3; a shift by one slice keeps 4 of 5 and 2 of 3 slices.
    assert result["WT"]["dice"] == pytest.approx(4 / 5)
    assert result["TC"]["dice"] == pytest.approx(2 / 3)
    assert result["WT"]["sensitivity"] == pytest.approx(4 / 5)
    assert result["WT"]["specificity"] == pytest.approx(1 - 42 / (12 * 10 * 9 - 210))
    # ET is TC without 2 x 2 x 1: 44 voxels, of which slices 16 + 12 and 12 + 16 pair up.
    assert result["ET"]["dice"] == pytest.approx(2 * (12 + 12) / (44 + 44))
    assert result["WT"]["hd95"] == result["TC"]["hd95"] == pytest.approx(2.0)


def test_confusing_necrosis_with_enhancement_spares_the_core():
    truth = onion()
    prediction = np.where(truth == spec.NCR, spec.ET, truth)
    result = metrics.case_metrics(truth, prediction, SPACING_MM)
    assert result["WT"]["dice"] == result["TC"]["dice"] == 1
    assert result["ET"]["dice"] < 1 and result["ET"]["specificity"] < 1


@pytest.mark.parametrize("truth_empty, prediction_empty, dice, hd95, sensitivity", [
    (True, True, 1, 0, None),
    (True, False, 0, HD95_ONE_EMPTY_MM, None),
    (False, True, 0, HD95_ONE_EMPTY_MM, 0),
])
def test_empty_regions_follow_brats_2020(truth_empty, prediction_empty, dice, hd95, sensitivity):
    empty = np.zeros_like(onion())
    result = metrics.case_metrics(
        empty if truth_empty else onion(), empty if prediction_empty else onion(), SPACING_MM
    )
    for figures in result.values():
        assert (figures["dice"], figures["hd95"]) == (dice, hd95)
        assert figures["sensitivity"] == sensitivity
        assert figures["specificity"] is not None
    json.dumps(result, allow_nan=False)


def test_no_enhancing_tumour_in_either():
    truth = np.where(onion() == spec.ET, spec.ED, onion())
    figures = metrics.case_metrics(truth, truth, SPACING_MM)["ET"]
    assert (figures["dice"], figures["hd95"], figures["sensitivity"]) == (1, 0, None)


def test_a_truth_that_fills_the_volume_has_no_specificity():
    full = np.full((2, 3, 4), spec.ET, np.uint8)
    assert metrics.case_metrics(full, full, SPACING_MM)["ET"]["specificity"] is None


def test_a_single_voxel_each():
    truth, prediction = np.zeros((2, 5, 6, 7), np.uint8)
    truth[1, 2, 0] = spec.ET
    prediction[1, 4, 0] = spec.ET
    for figures in metrics.case_metrics(truth, prediction, SPACING_MM).values():
        assert figures["hd95"] == pytest.approx(2 * 1.5)
        assert (figures["dice"], figures["sensitivity"]) == (0, 0)
        assert figures["specificity"] == pytest.approx(1 - 1 / (5 * 6 * 7 - 1))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(label_maps, label_maps)
def test_every_comparison_is_symmetric_and_in_range(truth, prediction):
    there = metrics.case_metrics(truth, prediction, SPACING_MM)
    back = metrics.case_metrics(prediction, truth, SPACING_MM)
    for region, figures in there.items():
        assert 0 <= figures["dice"] <= 1 and figures["hd95"] >= 0
        assert figures["dice"] == pytest.approx(back[region]["dice"])
        assert figures["hd95"] == pytest.approx(back[region]["hd95"])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(label_maps, label_maps)
def test_air_around_changes_only_specificity(truth, prediction):
    near = metrics.case_metrics(truth, prediction, SPACING_MM)
    wide = metrics.case_metrics(np.pad(truth, 3), np.pad(prediction, 3), SPACING_MM)
    for region in near:
        for name in ("dice", "hd95", "sensitivity"):
            assert near[region][name] == pytest.approx(wide[region][name])


@pytest.mark.parametrize("truth, prediction, spacing_mm, message", [
    (np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int), SPACING_MM, "one shape"),
    (np.zeros((2, 2, 2)), np.zeros((2, 2, 2), int), SPACING_MM, "truth is float64"),
    (np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), bool), SPACING_MM, "prediction is bool"),
    (np.zeros((2, 2), int), np.zeros((2, 2), int), SPACING_MM, r"shape \(2, 2\)"),
    (np.full((2, 2, 2), -1), np.zeros((2, 2, 2), int), SPACING_MM, "values -1 to -1"),
    (np.full((2, 2, 2), 5), np.zeros((2, 2, 2), int), SPACING_MM, "class ids 0 to 4"),
    (np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int), (1, 0, 1), "three positive"),
    (np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int), (1, 1), "three positive"),
])
def test_what_cannot_be_compared_is_refused(truth, prediction, spacing_mm, message):
    with pytest.raises(ValueError, match=message):
        metrics.case_metrics(truth, prediction, spacing_mm)


def test_the_rules_are_named():
    assert metrics.RULES == "brats2020"
    assert str(HD95_ONE_EMPTY_MM) in metrics.RULES_TEXT
