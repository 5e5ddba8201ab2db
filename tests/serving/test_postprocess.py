import numpy as np
import pytest

from brats_tfrecord.serving.postprocess import PostProcessing

OFF = PostProcessing()


def lesion():
    """A tumour of every class in 12x9x7: an edema block with core and rim, and two crumbs."""
    classes = np.zeros((12, 9, 7), np.uint8)
    classes[1:6, 1:6, 1:6] = 2
    classes[2:5, 2:5, 2:5] = 3
    classes[3, 3, 3] = 1
    classes[9, 7, 5] = 3  # a crumb of ET alone: also one of TC and of WT
    classes[9, 1, 1] = 2  # a crumb of ED
    return classes


def test_off_changes_nothing():
    classes = lesion()
    assert OFF.is_off
    assert OFF.without_faint_enhancement(classes) is classes
    assert OFF.without_small_components(classes, (1, 1, 1)) is classes


@pytest.mark.parametrize("smallest, left", [(27, 27), (28, 0)])
def test_too_little_enhancing_tumour_is_necrosis(smallest, left):
    classes = lesion()  # 26 voxels of rim and the crumb
    result = PostProcessing(smallest).without_faint_enhancement(classes)
    assert np.count_nonzero(result == 3) == left
    assert np.count_nonzero(result == 1) == 1 + 27 - left
    np.testing.assert_array_equal(result > 0, classes > 0)


def test_small_components_leave_their_region():
    classes = lesion()
    # The crumb of ET is out of WT too: it becomes background, as does the crumb of edema.
    whole = PostProcessing(0, (2, 0, 0)).without_small_components(classes, (1, 1, 1))
    assert whole[9, 7, 5] == 0 and whole[9, 1, 1] == 0
    np.testing.assert_array_equal(whole[:7], classes[:7])
    core = PostProcessing(0, (0, 2, 0)).without_small_components(classes, (1, 1, 1))
    assert core[9, 7, 5] == 2 and core[9, 1, 1] == 2
    enhancing = PostProcessing(0, (0, 0, 2)).without_small_components(classes, (1, 1, 1))
    assert enhancing[9, 7, 5] == 1


def test_thresholds_are_millimetres_not_voxels():
    classes = lesion()
    result = PostProcessing(0, (2, 0, 0)).without_small_components(classes, (1, 1, 2))
    assert result is classes  # a voxel is 2 mm3 here


def test_the_largest_component_always_stays():
    classes = lesion()
    result = PostProcessing(0, (1e6, 1e6, 1e6)).without_small_components(classes, (1, 1, 1))
    np.testing.assert_array_equal(result[:7], classes[:7])
    assert not result[7:].any()


def test_diagonal_neighbours_are_one_component():
    classes = np.zeros((5, 4, 3), np.uint8)
    classes[0, 0, 0] = classes[1, 1, 1] = 2
    classes[4, 3, 2] = 2
    result = PostProcessing(0, (2, 0, 0)).without_small_components(classes, (1, 1, 1))
    assert result[0, 0, 0] == result[1, 1, 1] == 2 and result[4, 3, 2] == 0


def test_json_gives_back_an_equal_object():
    chosen = PostProcessing(200, (50.0, 0.0, 20.0))
    assert PostProcessing.from_json(chosen.to_json()) == chosen
    with pytest.raises(KeyError):
        PostProcessing.from_json({"min_enhancing_voxels": 1})
