"""The choice of post-processing thresholds on validation cases with known errors."""

import dataclasses

import numpy as np
import pytest

from brats_tfrecord.serving import tuning
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.validation_case import ValidationCase

REGIONS = ("WT", "TC", "ET")


def case(patient, false_enhancing=0, crumb=0, enhancing=3000, spacing_mm=(1.0, 1.0, 1.0)):
    """Makes a case with 12,000 voxels of tumour, and errors in the prediction.

    Args:
        patient: id of the patient.
        false_enhancing: voxels of edema that are predicted as ET.
        crumb: voxels of an isolated component of edema that is predicted in the background.
        enhancing: voxels of ET in truth and prediction.
        spacing_mm: spacing of the voxels.
    """
    truth = np.zeros((40, 30, 20), np.uint8)
    truth[:20] = 2
    truth[:20].ravel()[:enhancing] = 3
    prediction = truth.copy()
    prediction[10:20].ravel()[:false_enhancing] = 3
    prediction[30:].ravel()[:crumb] = 2
    return ValidationCase.from_label_maps(patient, truth, prediction, spacing_mm)


def trial(result, words):
    """Returns the one trial whose text contains `words`."""
    [found] = [item for item in result.trials if words in item.correction]
    return found


def test_a_perfect_prediction_needs_no_post_processing():
    result = tuning.choose_post_processing([case("a"), case("b")])
    assert result.post_processing.is_off and result.held_out_gain == 0
    assert result.dice_before == result.dice_held_out == dict.fromkeys(REGIONS, 1)
    assert [item.correction for item in result.trials] == [""] * 4


@pytest.mark.parametrize("cases", [[], [case("a", crumb=400)] * 3])
def test_fewer_than_two_patients_choose_nothing(cases):
    result = tuning.choose_post_processing(cases)
    assert result.post_processing.is_off and not result.trials
    assert "needs two" in result.text()


def test_a_threshold_that_helps_held_out_patients_is_kept():
    # Without the crumb Dice of WT is 1, with it 24000 / (24000 + 600): a gain of .0244 / 3 each.
    # Thresholds of 1000 and 2000 mm³ are equally good.
    result = tuning.choose_post_processing([case(p, crumb=600) for p in "abc"])
    assert result.post_processing == PostProcessing(0, (1000.0, 0.0, 0.0))
    assert result.held_out_gain == pytest.approx((1 - 24000 / 24600) / 3)
    assert result.held_out_gain_with_enhancing == pytest.approx(result.held_out_gain)
    assert result.dice_held_out["WT"] == pytest.approx(1)
    assert result.text().startswith(
        "components of WT below 1000 mm³ are removed; held-out mean Dice +0.0081"
    )


def test_a_threshold_that_helps_one_patient_only_is_dropped():
    """Chosen on all six patients, but no other patient would have chosen it for this one."""
    cases = [case("a", crumb=1900), *(case(p) for p in "bcdef")]
    result = tuning.choose_post_processing(cases)
    assert result.post_processing.is_off
    assert trial(result, "WT") == tuning.CorrectionTrial(
        "components of WT below 2000 mm³ are removed", False, 0.0, 0.0
    )
    assert "dropped: components of WT" in result.text()


def test_two_timepoints_of_a_patient_are_left_out_together():
    crumbs = [case("a", crumb=1900), case("b", crumb=1900)]
    others = [case(p) for p in "cdef"]
    assert not tuning.choose_post_processing([*crumbs, *others]).post_processing.is_off
    timepoints = [dataclasses.replace(item, patient_id="a") for item in crumbs]
    result = tuning.choose_post_processing([*timepoints, *others])
    assert result.post_processing.is_off and result.patients == 5 and result.cases == 6


def test_a_threshold_that_harms_the_patient_left_out_is_dropped():
    """b's tumour has two true parts of different size; the threshold of the others removes one."""
    truth = np.zeros((40, 30, 20), np.uint8)
    truth[:20] = 3
    truth[30:].ravel()[:900] = 3
    two_parts = ValidationCase.from_label_maps("b", truth, truth.copy(), (1.0, 1.0, 1.0))
    cases = [case("a", crumb=950), case("c", crumb=950), two_parts]
    assert tuning.choose_post_processing(cases).post_processing.is_off


def no_enhancing(patients, false_enhancing):
    return [case(p, false_enhancing, enhancing=0) for p in patients]


def test_replacing_the_enhancing_tumour_is_never_kept_alone():
    """It can only raise the Dice of cases without enhancing tumour, to 1 where it was 0."""
    result = tuning.choose_post_processing([*no_enhancing("abc", 120), case("d"), case("e")])
    assert result.post_processing.is_off
    found = trial(result, "voxels of ET")
    assert found.held_out_gain == pytest.approx(3 / 5 / 3)  # ET of three in five cases: 0 to 1
    assert found.held_out_gain_with_enhancing == 0 and not found.kept


def with_crumbs(false_enhancing, cases, without):
    """Makes cases that gain by the removal of crumbs, some of them without enhancing tumour."""
    return [
        case(str(number), false_enhancing, 600, enhancing=0)
        if number < without
        else case(str(number), crumb=600)
        for number in range(cases)
    ]


def test_replacing_the_enhancing_tumour_is_kept_beside_a_gain_of_the_other_cases():
    result = tuning.choose_post_processing(with_crumbs(120, 6, 2))
    # 120 voxels exceed 50 and 100; 200 … 1000 are equal, their middle is 500.
    assert result.post_processing == PostProcessing(500, (1000.0, 0.0, 0.0))
    assert result.dice_before["ET"] == pytest.approx(4 / 6)
    assert result.dice_held_out["ET"] == pytest.approx(1)


def test_one_case_without_enhancing_tumour_cannot_support_its_replacement():
    result = tuning.choose_post_processing(with_crumbs(120, 6, 1))
    assert result.post_processing == PostProcessing(0, (1000.0, 0.0, 0.0))
    assert trial(result, "voxels of ET").held_out_gain == 0


def test_true_small_enhancing_tumour_is_kept():
    small = [case(p, crumb=600, enhancing=350) for p in "abc"]
    result = tuning.choose_post_processing([*small, *with_crumbs(400, 3, 2)])
    assert result.post_processing.min_enhancing_voxels == 0
    assert result.post_processing.min_component_mm3[0] == 1000


@pytest.mark.parametrize(
    "cases, without, voxels", [(20, 3, 2000), (19, 3, 0), (20, 2, 0), (6, 3, 0)]
)
def test_more_than_a_millilitre_needs_twenty_cases_and_three_without(cases, without, voxels):
    """The false enhancing tumour has 1,200 voxels: 1500, 2000 and 3000 would remove it."""
    result = tuning.choose_post_processing(with_crumbs(1200, cases, without))
    assert result.post_processing.min_enhancing_voxels == voxels
    assert result.post_processing.min_component_mm3[0] == 1000


def test_without_any_enhancing_tumour_nothing_is_kept():
    """No case can show that the correction helps where there is enhancing tumour."""
    cases = [case(p, 120, 600, enhancing=0) for p in "abcd"]
    result = tuning.choose_post_processing(cases)
    assert result.post_processing.is_off and result.held_out_gain_with_enhancing is None
    assert "no case with ET" in result.text()


def test_a_gain_below_the_minimum_is_ignored():
    # A crumb of c voxels costs c / (24000 + c) / 3: .0017 for 120, .0027 for 200.
    for crumb, is_off in ((120, True), (200, False)):
        result = tuning.choose_post_processing([case(p, crumb=crumb) for p in "abc"])
        assert result.post_processing.is_off is is_off


def test_the_result_is_written_as_json_and_described():
    stored = tuning.choose_post_processing([case(p, crumb=600) for p in "abc"]).to_json()
    assert stored["post_processing"]["min_component_mm3"] == [1000.0, 0.0, 0.0]
    assert stored["cases"] == stored["patients"] == 3
    assert [item["kept"] for item in stored["trials"]] == [True, False, False, False]
    assert tuning.gain_text(stored) == (
        "held-out mean Dice +0.0081 (+0.0081 with ET); 3 validation cases of 3 patients"
    )
    assert tuning.gain_text(None) is None
    assert "export the model again" in tuning.gain_text({"cases": 6, "dice_after": {}})
