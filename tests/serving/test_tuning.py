"""The choice of post-processing thresholds on validation cases with known errors."""

import numpy as np
import pytest

from brats_tfrecord.serving import tuning
from brats_tfrecord.serving.postprocess import PostProcessing


def case(false_enhancing=0, crumb=0, enhancing=3000):
    """Makes a case with `enhancing` voxels of ET in edema, and errors in the prediction.

    Args:
        false_enhancing: voxels of edema that are predicted as ET.
        crumb: voxels of an isolated component of edema that is predicted in the background.
        enhancing: voxels of ET in truth and prediction.
    """
    truth = np.zeros((40, 30, 20), np.uint8)
    truth[:20] = 2
    truth[:20].ravel()[:enhancing] = 3
    prediction = truth.copy()
    prediction[10:20].ravel()[:false_enhancing] = 3
    prediction[30].ravel()[:crumb] = 2
    return tuning.ValidationCase.from_label_maps(truth, prediction, (1.0, 1.0, 1.0))


def test_a_perfect_prediction_needs_no_post_processing():
    choice = tuning.choose_post_processing([case(), case()])
    assert choice.post_processing.is_off and choice.cases == 2
    assert choice.dice_before == choice.dice_after == {"WT": 1, "TC": 1, "ET": 1}


def test_without_cases_no_post_processing_is_chosen():
    assert tuning.choose_post_processing([]).post_processing.is_off


def test_false_enhancing_tumour_is_removed():
    # 120 voxels exceed 50 and 100; the thresholds 200 … 3000 are equal, their middle is 1000.
    choice = tuning.choose_post_processing([case(), case(enhancing=0, false_enhancing=120)])
    assert choice.post_processing == PostProcessing(1000)
    assert choice.dice_before["ET"] == 0.5 and choice.dice_after["ET"] == 1


def test_true_small_enhancing_tumour_is_kept():
    # Two cases with a true small ET outweigh one with a false ET.
    small = case(enhancing=150)
    choice = tuning.choose_post_processing([small, small, case(enhancing=0, false_enhancing=400)])
    assert choice.post_processing.min_enhancing_voxels == 0


def test_small_components_are_removed_if_that_helps():
    choice = tuning.choose_post_processing([case(crumb=150), case()])
    assert choice.post_processing == PostProcessing(0, (1000.0, 0.0, 0.0))
    assert choice.dice_after["WT"] == pytest.approx(1)


def test_a_gain_below_the_minimum_is_ignored():
    assert tuning.choose_post_processing([case(crumb=3), case()]).post_processing.is_off


def test_the_result_is_written_as_json():
    stored = tuning.choose_post_processing([case(crumb=150)]).to_json()
    assert stored["post_processing"]["min_component_mm3"] == [1000.0, 0.0, 0.0]
    assert stored["cases"] == 1
