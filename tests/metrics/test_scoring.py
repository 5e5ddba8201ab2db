"""`case_metrics`: regions, empty masks, and properties of every comparison."""

import json

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
    """A tumour with every class, off centre and not cubic: necrosis, enhancing rim and edema."""
    classes = np.zeros((12, 10, 9), np.uint8)
    classes[2:9, 2:8, 1:6] = spec.ED
    classes[3:7, 3:7, 2:5] = spec.ET
    classes[4:6, 4:6, 3:4] = spec.NCR
    return classes


@pytest.mark.parametrize("rules", metrics.RULE_SETS)
def test_identical_maps_have_perfect_metrics(rules):
    result = metrics.case_metrics(onion(), onion(), SPACING_MM, rules)
    perfect = {
        "dice": 1,
        "hd95": 0,
        "hd95_pooled": 0,
        "hd100": 0,
        "assd": 0,
        "nsd_1mm": 1,
        "nsd_2mm": 1,
        "sensitivity": 1,
        "specificity": 1,
        "volume_error_ml": 0,
        "lesion_dice": 1,
        "lesion_hd95": 0,
        "missed_lesions": 0,
        "false_lesions": 0,
    }
    for name, figures in result.items():
        # NCR/NET has 2 x 2 x 1 voxels of 3 mm³, which is a lesion among metastases only.
        expected = perfect | {"lesions": int(name != "NCR/NET" or rules == "brats2023-met")}
        assert figures == {metric: expected[metric] for metric in metrics.RULE_SETS[rules].metrics}


def test_structures_are_regions_and_other_classes():
    assert metrics.structures() == ("WT", "TC", "ET", "NCR/NET", "ED")
    assert metrics.structures(5) == ("WT", "TC", "ET", "NCR/NET", "ED", "RC")
    with pytest.raises(ValueError, match="classes is 3"):
        metrics.structures(3)


def test_metrics_of_a_shift_by_hand():
    truth = onion()
    prediction = np.roll(truth, 1, axis=2)  # 1 voxel of 2 mm
    result = metrics.case_metrics(truth, prediction, SPACING_MM)
    assert tuple(result) == metrics.structures()
    # WT is 7 x 6 x 5, TC 4 x 4 x 3: after a shift by one slice, 4 of 5 and 2 of 3 overlap.
    assert result["WT"]["dice"] == pytest.approx(4 / 5)
    assert result["TC"]["dice"] == pytest.approx(2 / 3)
    assert result["WT"]["sensitivity"] == pytest.approx(4 / 5)
    assert result["WT"]["specificity"] == pytest.approx(1 - 42 / (12 * 10 * 9 - 210))
    # ET is TC without 2 x 2 x 1: slices of 16, 12 and 16 voxels, which overlap in 12 twice.
    assert result["ET"]["dice"] == pytest.approx(2 * (12 + 12) / (44 + 44))
    assert result["WT"]["hd95"] == result["TC"]["hd95"] == pytest.approx(2.0)
    assert result["WT"]["hd100"] == result["NCR/NET"]["hd100"] == pytest.approx(2.0)
    # NCR is one slice thick, so that every voxel is 2 mm away.
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


def test_resection_cavity_is_compared_with_five_classes():
    truth = onion()
    truth[9:11, 2:8, 1:6] = spec.RC
    prediction = np.where(truth == spec.RC, spec.BACKGROUND, truth)
    prediction[9, 2:8, 1:6] = spec.RC  # half of it
    result = metrics.case_metrics(truth, prediction, SPACING_MM, classes=5)
    assert result["RC"]["dice"] == pytest.approx(2 * 30 / (60 + 30))
    assert result["WT"]["dice"] == 1
    without = metrics.case_metrics(truth, prediction, SPACING_MM)
    assert "RC" not in without and without["WT"] == result["WT"]


def test_confusion_within_the_core_does_not_change_its_dice():
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
def test_empty_regions_have_the_values_of_brats_2020(
    truth_empty, prediction_empty, dice, hd95, sensitivity
):
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


def test_case_without_enhancing_tumour():
    truth = np.where(onion() == spec.ET, spec.ED, onion())
    figures = metrics.case_metrics(truth, truth, SPACING_MM)["ET"]
    assert (figures["dice"], figures["hd95"], figures["sensitivity"]) == (1, 0, None)


def test_specificity_is_none_if_the_truth_fills_the_volume():
    full = np.full((2, 3, 4), spec.ET, np.uint8)
    assert metrics.case_metrics(full, full, SPACING_MM)["ET"]["specificity"] is None


def test_single_voxels():
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
def test_metrics_are_symmetric_and_in_range(truth, prediction):
    result = metrics.case_metrics(truth, prediction, SPACING_MM)
    swapped = metrics.case_metrics(prediction, truth, SPACING_MM)
    for region, figures in result.items():
        assert 0 <= figures["dice"] <= 1 and figures["hd95"] >= 0
        assert figures["dice"] == pytest.approx(swapped[region]["dice"])
        for distance in ("hd95", "hd100", "assd"):
            assert figures[distance] == pytest.approx(swapped[region][distance])
        assert figures["hd95"] <= figures["hd100"] and figures["assd"] <= figures["hd100"]
        assert figures["volume_error_ml"] == -swapped[region]["volume_error_ml"]


@settings(max_examples=20, derandomize=True)
@given(label_maps, label_maps)
def test_margin_of_background_changes_only_specificity(truth, prediction):
    margin = [(3, 0), (1, 5), (0, 2)]
    result = metrics.case_metrics(truth, prediction, SPACING_MM, "brats2023")
    padded = metrics.case_metrics(
        np.pad(truth, margin), np.pad(prediction, margin), SPACING_MM, "brats2023"
    )
    for structure, figures in result.items():
        expected = padded[structure] | {"specificity": figures["specificity"]}
        assert figures == pytest.approx(expected)


def in_memory_as(order, array):
    """`array` with its axes in memory in `order` (the fastest last), or with negative strides."""
    if order == "backwards":
        return array[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1]
    return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))


orders = st.sampled_from([(0, 1, 2), (2, 1, 0), (1, 2, 0), "backwards"])


@settings(max_examples=60, derandomize=True)
@given(label_maps, label_maps, orders, orders, st.sampled_from(list(metrics.RULE_SETS)))
def test_metrics_do_not_depend_on_the_memory_layout(truth, prediction, first, second, rules):
    # Arrays of nibabel are in Fortran order, those of NumPy in C order.
    figures = metrics.case_metrics(
        in_memory_as(first, truth), in_memory_as(second, prediction), SPACING_MM, rules
    )
    assert repr(figures) == repr(metrics.case_metrics(truth, prediction, SPACING_MM, rules))


@settings(max_examples=20, derandomize=True)
@given(label_maps, label_maps)
def test_distances_scale_with_the_spacing(truth, prediction):
    result = metrics.case_metrics(truth, prediction, SPACING_MM, "nnunet")
    doubled = metrics.case_metrics(truth, prediction, [2 * mm for mm in SPACING_MM], "nnunet")
    for structure, figures in result.items():
        for distance in ("hd95", "hd100", "assd"):
            length = figures[distance]
            assert doubled[structure][distance] == (
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
def test_invalid_arguments_are_named(truth, prediction, spacing_mm, message):
    with pytest.raises(ValueError, match=message):
        metrics.case_metrics(truth, prediction, spacing_mm)


def test_noise_as_prediction():
    truth, prediction = np.zeros((2, 60, 50, 40), np.uint8)
    truth[20:30, 20:32, 10:22] = spec.ET
    prediction[...] = np.random.default_rng(0).integers(0, 4, prediction.shape)
    result = metrics.case_metrics(truth, prediction, SPACING_MM, "brats2023")
    # The farthest corner is 30 x 1, 20 x 1.5 and 18 x 2 mm away, and has noise near it.
    assert result["ET"]["hd100"] == pytest.approx(np.hypot(np.hypot(30, 30), 36), abs=3)


def test_unknown_rules_are_named():
    with pytest.raises(ValueError, match="rules is 'brats'. Available: brats2020, brats2023, "):
        metrics.case_metrics(onion(), onion(), SPACING_MM, "brats")
