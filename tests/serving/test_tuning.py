import numpy as np
import pytest

from brats_tfrecord.serving import tuning
from brats_tfrecord.serving.postprocess import PostProcessing


def case(false_enhancing=0, crumb=0, enhancing=3000):
    """A truth with `enhancing` voxels of ET in edema, and a prediction with errors added."""
    truth = np.zeros((40, 30, 20), np.uint8)
    truth[:20] = 2
    truth[:20].ravel()[:enhancing] = 3
    prediction = truth.copy()
    prediction[10:20].ravel()[:false_enhancing] = 3
    prediction[30].ravel()[:crumb] = 2
    return tuning.Compared.of(truth, prediction, (1.0, 1.0, 1.0))


def test_nothing_helps_a_perfect_prediction():
    choice = tuning.choose([case(), case()])
    assert choice.post_processing.is_off and choice.cases == 2
    assert choice.dice_before == choice.dice_after == {"WT": 1, "TC": 1, "ET": 1}


def test_no_case_chooses_nothing():
    assert tuning.choose([]).post_processing.is_off


def test_a_false_enhancement_is_held_to_be_none():
    # 120 voxels are too many for 50 and 100; of 200 … 3000, all equal, the middle is 1000.
    choice = tuning.choose([case(), case(enhancing=0, false_enhancing=120)])
    assert choice.post_processing == PostProcessing(1000)
    assert choice.dice_before["ET"] == 0.5 and choice.dice_after["ET"] == 1


def test_a_real_small_enhancement_is_kept():
    # Two cases that truly enhance faintly weigh more than one that does not.
    faint = case(enhancing=150)
    choice = tuning.choose([faint, faint, case(enhancing=0, false_enhancing=400)])
    assert choice.post_processing.min_enhancing_voxels == 0


def test_crumbs_are_taken_out_where_that_helps():
    choice = tuning.choose([case(crumb=150), case()])
    assert choice.post_processing == PostProcessing(0, (1000.0, 0.0, 0.0))
    assert choice.dice_after["WT"] == pytest.approx(1)


def test_a_gain_within_the_noise_is_none():
    assert tuning.choose([case(crumb=3), case()]).post_processing.is_off


def test_the_choice_is_json():
    stored = tuning.choose([case(crumb=150)]).to_json()
    assert stored["post_processing"]["min_component_mm3"] == [1000.0, 0.0, 0.0]
    assert stored["cases"] == 1
