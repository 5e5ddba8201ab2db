"""`case_metrics`: regions, the rules for empties, and what every comparison must obey."""

import json
import time

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brats_tfrecord import metrics, spec
from brats_tfrecord.metrics.rules import HD95_ONE_EMPTY_MM

SPACING_MM = (1.0, 1.5, 2.0)

label_maps = arrays.arrays(np.uint8, (4, 6, 5), elements=st.integers(0, 3))


def onion():
    """A tumour with every class: necrosis in a rim in an edema, off centre, not cubic."""
    classes = np.zeros((12, 10, 9), np.uint8)
    classes[2:9, 2:8, 1:6] = spec.ED
    classes[3:7, 3:7, 2:5] = spec.ET
    classes[4:6, 4:6, 3:4] = spec.NCR
    return classes


@pytest.mark.parametrize("rules", metrics.RULE_SETS)
def test_identical_maps_are_perfect(rules):
    found = metrics.case_metrics(onion(), onion(), SPACING_MM, rules)
    perfect = {
        "dice": 1,
        "hd95": 0,
        "hd100": 0,
        "assd": 0,
        "sensitivity": 1,
        "specificity": 1,
        "volume_error_ml": 0,
        "lesion_dice": 1,
        "lesion_hd95": 0,
        "missed_lesions": 0,
        "false_lesions": 0,
    }
    for name, figures in found.items():
        # NCR/NET is 2 x 2 x 1 voxels of 3 mm³, too small a lesion to count.
        expected = perfect | {"lesions": int(name != "NCR/NET")}
        assert figures == {metric: expected[metric] for metric in metrics.RULE_SETS[rules].metrics}


def test_structures_are_regions_then_the_other_classes():
    assert metrics.structures() == ("WT", "TC", "ET", "NCR/NET", "ED")
    assert metrics.structures(5) == ("WT", "TC", "ET", "NCR/NET", "ED", "RC")
    with pytest.raises(ValueError, match="classes is 3"):
        metrics.structures(3)


def test_regions_and_figures_of_one_shift_by_hand():
    truth = onion()
    prediction = np.roll(truth, 1, axis=2)  # 1 voxel of 2 mm
    result = metrics.case_metrics(truth, prediction, SPACING_MM)
    assert tuple(result) == metrics.structures()
    # WT is 7 x 6 x 5, TC 4 x 4 x 3; a shift by one slice keeps 4 of 5 and 2 of 3 slices.
    assert result["WT"]["dice"] == pytest.approx(4 / 5)
    assert result["TC"]["dice"] == pytest.approx(2 / 3)
    assert result["WT"]["sensitivity"] == pytest.approx(4 / 5)
    assert result["WT"]["specificity"] == pytest.approx(1 - 42 / (12 * 10 * 9 - 210))
    # ET is TC without 2 x 2 x 1: 44 voxels, of which slices 16 + 12 and 12 + 16 pair up.
    assert result["ET"]["dice"] == pytest.approx(2 * (12 + 12) / (44 + 44))
    assert result["WT"]["hd95"] == result["TC"]["hd95"] == pytest.approx(2.0)
    assert result["WT"]["hd100"] == result["NCR/NET"]["hd100"] == pytest.approx(2.0)
    # NCR is one slice thick: every voxel of it moves by 2 mm.
    assert result["NCR/NET"]["assd"] == pytest.approx(2.0)
    assert result["NCR/NET"]["dice"] == 0
    assert result["WT"]["volume_error_ml"] == 0


def test_volume_error_is_prediction_minus_truth_in_millilitres():
    truth, prediction = onion(), onion()
    prediction[prediction == spec.NCR] = spec.ED  # 4 voxels of 1 x 1.5 x 2 mm
    result = metrics.case_metrics(truth, prediction, SPACING_MM)
    assert result["TC"]["volume_error_ml"] == pytest.approx(-4 * 3 / 1000)
    assert result["ED"]["volume_error_ml"] == pytest.approx(4 * 3 / 1000)
    assert result["WT"]["volume_error_ml"] == 0


def test_a_resection_cavity_is_compared_where_the_classes_include_it():
    truth = onion()
    truth[9:11, 2:8, 1:6] = spec.RC
    prediction = np.where(truth == spec.RC, spec.BACKGROUND, truth)
    prediction[9, 2:8, 1:6] = spec.RC  # half of it
    result = metrics.case_metrics(truth, prediction, SPACING_MM, classes=5)
    assert result["RC"]["dice"] == pytest.approx(2 * 30 / (60 + 30))
    assert result["WT"]["dice"] == 1
    without = metrics.case_metrics(truth, prediction, SPACING_MM)
    assert "RC" not in without and without["WT"] == result["WT"]


def test_confusing_necrosis_with_enhancement_spares_the_core():
    truth = onion()
    prediction = np.where(truth == spec.NCR, spec.ET, truth)
    result = metrics.case_metrics(truth, prediction, SPACING_MM)
    assert result["WT"]["dice"] == result["TC"]["dice"] == 1
    assert result["ET"]["dice"] < 1 and result["ET"]["specificity"] < 1


@pytest.mark.parametrize(
    "truth_empty, prediction_empty, dice, hd95, sensitivity",
    [
        (True, True, 1, 0, None),
        (True, False, 0, HD95_ONE_EMPTY_MM, None),
        (False, True, 0, HD95_ONE_EMPTY_MM, 0),
    ],
)
def test_empty_regions_follow_brats_2020(truth_empty, prediction_empty, dice, hd95, sensitivity):
    empty = np.zeros_like(onion())
    result = metrics.case_metrics(
        empty if truth_empty else onion(), empty if prediction_empty else onion(), SPACING_MM
    )
    for figures in result.values():
        assert (figures["dice"], figures["hd95"]) == (dice, hd95)
        assert figures["hd100"] == figures["assd"] == hd95
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
    result = metrics.case_metrics(truth, prediction, SPACING_MM)
    for figures in (result[region] for region in spec.REGIONS):
        for metric in ("hd95", "hd100", "assd"):
            assert figures[metric] == pytest.approx(2 * 1.5)
        assert (figures["dice"], figures["sensitivity"]) == (0, 0)
        assert figures["specificity"] == pytest.approx(1 - 1 / (5 * 6 * 7 - 1))


@settings(max_examples=40, derandomize=True)
@given(label_maps, label_maps)
def test_every_comparison_is_symmetric_and_in_range(truth, prediction):
    there = metrics.case_metrics(truth, prediction, SPACING_MM)
    back = metrics.case_metrics(prediction, truth, SPACING_MM)
    for region, figures in there.items():
        assert 0 <= figures["dice"] <= 1 and figures["hd95"] >= 0
        assert figures["dice"] == pytest.approx(back[region]["dice"])
        for distance in ("hd95", "hd100", "assd"):
            assert figures[distance] == pytest.approx(back[region][distance])
        assert figures["hd95"] <= figures["hd100"] and figures["assd"] <= figures["hd100"]
        assert figures["volume_error_ml"] == -back[region]["volume_error_ml"]


@settings(max_examples=20, derandomize=True)
@given(label_maps, label_maps)
def test_air_around_changes_only_specificity(truth, prediction):
    air = [(3, 0), (1, 5), (0, 2)]
    near = metrics.case_metrics(truth, prediction, SPACING_MM, "brats2023")
    wide = metrics.case_metrics(
        np.pad(truth, air), np.pad(prediction, air), SPACING_MM, "brats2023"
    )
    for structure, figures in near.items():
        expected = wide[structure] | {"specificity": figures["specificity"]}
        assert figures == pytest.approx(expected)


def in_memory_as(order, array):
    """`array`, its axes laid in memory in `order` (the fastest last), or counted backwards."""
    if order == "backwards":
        return array[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1]
    return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))


orders = st.sampled_from([(0, 1, 2), (2, 1, 0), (1, 2, 0), "backwards"])


@settings(max_examples=60, derandomize=True)
@given(label_maps, label_maps, orders, orders, st.sampled_from(list(metrics.RULE_SETS)))
def test_figures_do_not_depend_on_how_arrays_lie_in_memory(truth, prediction, first, second, rules):
    # nibabel's arrays count the first axis fastest, NumPy's the last.
    figures = metrics.case_metrics(
        in_memory_as(first, truth), in_memory_as(second, prediction), SPACING_MM, rules
    )
    assert repr(figures) == repr(metrics.case_metrics(truth, prediction, SPACING_MM, rules))


@settings(max_examples=20, derandomize=True)
@given(label_maps, label_maps)
def test_twice_the_spacing_is_twice_the_distance(truth, prediction):
    here = metrics.case_metrics(truth, prediction, SPACING_MM, "nnunet")
    there = metrics.case_metrics(truth, prediction, [2 * mm for mm in SPACING_MM], "nnunet")
    for structure, figures in here.items():
        for distance in ("hd95", "hd100", "assd"):
            length = figures[distance]
            assert there[structure][distance] == (
                None if length is None else pytest.approx(2 * length)
            )


@pytest.mark.parametrize(
    "truth, prediction, spacing_mm, message",
    [
        (np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int), SPACING_MM, "one shape"),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2), int), SPACING_MM, "truth is float64"),
        (np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), bool), SPACING_MM, "prediction is bool"),
        (np.zeros((2, 2), int), np.zeros((2, 2), int), SPACING_MM, r"shape \(2, 2\)"),
        (np.full((2, 2, 2), -1), np.zeros((2, 2, 2), int), SPACING_MM, "values -1 to -1"),
        (np.full((2, 2, 2), 5), np.zeros((2, 2, 2), int), SPACING_MM, "class ids 0 to 4"),
        (np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int), (1, 0, 1), "three positive"),
        (np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int), (1, 1), "three positive"),
    ],
)
def test_what_cannot_be_compared_is_refused(truth, prediction, spacing_mm, message):
    with pytest.raises(ValueError, match=message):
        metrics.case_metrics(truth, prediction, spacing_mm)


def test_salt_and_pepper_costs_seconds():
    truth, prediction = np.zeros((2, 60, 50, 40), np.uint8)
    truth[20:30, 20:32, 10:22] = spec.ET
    prediction[...] = np.random.default_rng(0).integers(0, 4, prediction.shape)
    began = time.perf_counter()
    result = metrics.case_metrics(truth, prediction, SPACING_MM, "brats2023")
    assert time.perf_counter() - began < 5
    # The farthest corner is 30 x 1, 20 x 1.5 and 18 x 2 mm away; noise comes near it.
    assert result["ET"]["hd100"] == pytest.approx(np.hypot(np.hypot(30, 30), 36), abs=3)


def test_unknown_rules_are_refused():
    with pytest.raises(ValueError, match="rules is 'brats'. Available: brats2020, brats2023, nnu"):
        metrics.case_metrics(onion(), onion(), SPACING_MM, "brats")


def test_the_rules_are_named():
    assert str(HD95_ONE_EMPTY_MM) in metrics.RULE_SETS["brats2020"].text
