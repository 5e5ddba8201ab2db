"""Rule sets: the values of metrics where a mask is empty."""

import numpy as np
import pytest

from brats_tfrecord import metrics, spec

EMPTY = np.zeros((9, 8, 7), np.uint8)
TUMOUR = EMPTY.copy()
TUMOUR[1:6, 2:6, 2:6] = spec.ET  # 80 mm³ at 1 mm

NONE = None
EXPECTED = {
    # rules, truth empty, prediction empty: dice, distances, sensitivity
    ("brats2020", True, True): (1, 0, NONE),
    ("brats2020", True, False): (0, 373.12866, NONE),
    ("brats2020", False, True): (0, 373.12866, 0),
    ("brats2023", True, True): (1, 0, 1),
    ("brats2023", True, False): (0, 374, 0),
    ("brats2023", False, True): (0, 374, 0),
    ("brats2023-met", True, True): (1, 0, 1),
    ("brats2023-men", True, False): (0, 374, 0),
    ("nnunet", True, True): (NONE, NONE, NONE),
    ("nnunet", True, False): (0, NONE, NONE),
    ("nnunet", False, True): (0, NONE, 0),
}


@pytest.mark.parametrize("key", EXPECTED, ids=str)
def test_whole_structure_metrics_of_empty_masks(key):
    rules, truth_empty, prediction_empty = key
    figures = metrics.case_metrics(
        EMPTY if truth_empty else TUMOUR, EMPTY if prediction_empty else TUMOUR, (1, 1, 1), rules
    )["ET"]
    dice, distance, sensitivity = EXPECTED[key]
    assert (figures["dice"], figures["sensitivity"]) == (dice, sensitivity)
    assert {figures[name] for name in ("hd95", "hd100", "assd")} == {distance}
    assert {figures[name] for name in ("nsd_1mm", "nsd_2mm")} == {dice}
    assert figures.get("hd95_pooled") is None
    assert figures["volume_error_ml"] == pytest.approx(
        0.08 * (int(truth_empty) - int(prediction_empty))
    )
    assert figures["specificity"] == (
        1 if prediction_empty or not truth_empty else pytest.approx(1 - 80 / EMPTY.size)
    )


@pytest.mark.parametrize(
    "truth, prediction, expected",
    [
        (EMPTY, EMPTY, (1, 0, 0, 0, 0)),
        (EMPTY, TUMOUR, (0, 374, 0, 0, 1)),
        (TUMOUR, EMPTY, (0, 374, 1, 1, 0)),
        (TUMOUR, TUMOUR, (1, 0, 1, 0, 0)),
    ],
)
def test_lesion_wise_metrics_of_empty_masks(truth, prediction, expected):
    figures = metrics.case_metrics(truth, prediction, (1, 1, 1), "brats2023")["WT"]
    names = ("lesion_dice", "lesion_hd95", "lesions", "missed_lesions", "false_lesions")
    assert tuple(figures[name] for name in names) == expected


def test_rule_sets_agree_where_no_mask_is_empty():
    prediction = np.roll(TUMOUR, 1, 0)
    results = {
        rules: metrics.case_metrics(TUMOUR, prediction, (1, 1, 1), rules)["TC"]
        for rules in metrics.RULE_SETS
    }
    for name in metrics.RULE_SETS["brats2020"].metrics:
        of_surface = name in ("hd95", "hd100", "assd")
        for by_area in (False, True) if of_surface else (None,):
            values = [
                figures[name]
                for rules, figures in results.items()
                if by_area in (None, metrics.RULE_SETS[rules].by_area)
            ]
            assert len(values) > 1 and len(set(values)) == 1, name


def test_three_definitions_of_hd95():
    """A plate with a spike; the prediction lacks the spike."""
    truth, prediction = np.zeros((2, 30, 16, 6), np.uint8)
    truth[2:10, 3:11, 2:4] = prediction[2:10, 3:11, 2:4] = spec.ET
    truth[10:26, 5, 2] = spec.ET
    hd95 = {
        rules: metrics.case_metrics(truth, prediction, (1, 1, 1), rules)["ET"]
        for rules in ("brats2020", "brats2023", "nnunet")
    }
    # Of the truth's 128 + 16 surface voxels, those of the spike are 1 to 16 mm away; the rank
    # 0.95 * 143 is 135.85, the distance of voxel 136 is 9 mm and of voxel 135 is 8 mm.
    assert hd95["brats2020"]["hd95"] == hd95["nnunet"]["hd95"] == pytest.approx(8.85)
    # Pooled, 144 + 128 voxels: the rank is 257.45, and voxel 256 is the first of the spike.
    assert hd95["nnunet"]["hd95_pooled"] == pytest.approx(2.45)
    # By area the spike weighs more: all of its four sides count.
    assert hd95["brats2023"]["hd95"] == 12


def test_metrics_have_titles_and_rule_sets_state_their_numbers():
    for name, rule_set in metrics.RULE_SETS.items():
        assert rule_set.name == name
        assert set(rule_set.metrics) <= metrics.METRIC_TITLES.keys()
        assert metrics.METRIC_TITLES.keys() == metrics.METRIC_DECIMALS.keys()
        for word in ("WT", "HD95", "ASSD", "Surface Dice", "Specificity", "Nikolov"):
            assert word in rule_set.text
        definition = (
            "weighted by their area, as in the official code"
            if rule_set.by_area
            else ("centres of surface voxels")
        )
        assert "larger of the two directed 95th percentiles" in rule_set.text
        assert definition in rule_set.text
        assert ("the pooled one" in rule_set.text) == ("hd95_pooled" in rule_set.metrics)
    assert next(iter(metrics.RULE_SETS)) == "brats2020"
    for rules, numbers in (
        ("brats2020", ["373.12866"]),
        ("brats2023", ["374", "50 mm³", "26", "3 times", "glioma"]),
        ("brats2023-men", ["374", "50 mm³", "1 time ", "meningioma"]),
        ("brats2023-met", ["374", "2 mm³", "1 time ", "metastases"]),
    ):
        assert all(number in metrics.RULE_SETS[rules].text for number in numbers)
