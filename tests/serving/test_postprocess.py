"""Removal of small enhancing tumours and small components."""

import numpy as np
import pytest

from brats_tfrecord.serving.postprocess import PostProcessing

OFF = PostProcessing()


def lesion():
    """Makes an edema block with core and enhancing rim, and two isolated voxels."""
    classes = np.zeros((12, 9, 7), np.uint8)
    classes[1:6, 1:6, 1:6] = 2
    classes[2:5, 2:5, 2:5] = 3
    classes[3, 3, 3] = 1
    classes[9, 7, 5] = 3  # an isolated component of ET, hence of TC and WT
    classes[9, 1, 1] = 2  # an isolated component of ED
    return classes


def test_off_changes_nothing():
    classes = lesion()
    assert OFF.is_off
    assert OFF.without_small_enhancing_tumour(classes) is classes
    assert OFF.without_small_components(classes, (1, 1, 1)) is classes


@pytest.mark.parametrize("min_voxels, remaining", [(27, 27), (28, 0)])
def test_too_small_an_enhancing_tumour_becomes_necrosis(min_voxels, remaining):
    classes = lesion()  # 27 voxels of ET: 26 in the rim, 1 isolated
    result = PostProcessing(min_voxels).without_small_enhancing_tumour(classes)
    assert np.count_nonzero(result == 3) == remaining
    assert np.count_nonzero(result == 1) == 1 + 27 - remaining
    np.testing.assert_array_equal(result > 0, classes > 0)


def test_small_components_are_removed_from_their_region():
    classes = lesion()
    # Both isolated voxels belong to WT, and become background.
    whole = PostProcessing(0, (2, 0, 0)).without_small_components(classes, (1, 1, 1))
    assert whole[9, 7, 5] == 0 and whole[9, 1, 1] == 0
    np.testing.assert_array_equal(whole[:7], classes[:7])
    core = PostProcessing(0, (0, 2, 0)).without_small_components(classes, (1, 1, 1))
    assert core[9, 7, 5] == 2 and core[9, 1, 1] == 2
    enhancing = PostProcessing(0, (0, 0, 2)).without_small_components(classes, (1, 1, 1))
    assert enhancing[9, 7, 5] == 1


def test_thresholds_are_in_cubic_millimetres():
    classes = lesion()
    result = PostProcessing(0, (2, 0, 0)).without_small_components(classes, (1, 1, 2))
    assert result is classes  # a voxel measures 2 mm³


def test_the_largest_component_is_always_kept():
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


def test_reading_the_json_returns_an_equal_object():
    chosen = PostProcessing(200, (50.0, 0.0, 20.0))
    assert PostProcessing.from_json(chosen.to_json()) == chosen
    with pytest.raises(KeyError):
        PostProcessing.from_json({"min_enhancing_voxels": 1})
