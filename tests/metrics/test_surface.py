"""Surface distances on geometry that can be measured by hand."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from brats_tfrecord.metrics import surface

SPACING_MM = (0.5, 2.0, 3.0)

masks = arrays.arrays(bool, (5, 4, 6)).filter(np.any)


def mask_of(shape, *voxels):
    mask = np.zeros(shape, bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


@pytest.mark.parametrize("axis, expected_mm", [(0, 3 * 0.5), (1, 3 * 2.0), (2, 3 * 3.0)])
def test_two_voxels_three_apart_along_each_axis(axis, expected_mm):
    shifted = [1, 1, 1]
    shifted[axis] += 3
    distances = surface.surface_distances(
        mask_of((6, 7, 8), (1, 1, 1)), mask_of((6, 7, 8), tuple(shifted)), SPACING_MM
    )
    np.testing.assert_allclose(distances.truth_to_prediction, [expected_mm])
    np.testing.assert_allclose(distances.prediction_to_truth, [expected_mm])
    assert surface.hd95(distances) == pytest.approx(expected_mm)


def test_directions_are_distinguished():
    truth = mask_of((9, 1, 1), (0, 0, 0))
    prediction = mask_of((9, 1, 1), (0, 0, 0), (8, 0, 0))
    distances = surface.surface_distances(truth, prediction, (1, 1, 1))
    np.testing.assert_array_equal(distances.truth_to_prediction, [0])
    np.testing.assert_array_equal(distances.prediction_to_truth, [0, 8])


def test_hd95_is_the_larger_directed_percentile():
    distances = surface.SurfaceDistances(np.zeros(90), np.array([0.0] * 10 + [4.0]))
    # 11 values from the prediction: the rank 0.95 * 10 = 9.5 is half-way between 0 and 4.
    assert surface.hd95(distances) == pytest.approx(2)
    swapped = surface.SurfaceDistances(distances.prediction_to_truth, distances.truth_to_prediction)
    assert surface.hd95(swapped) == pytest.approx(2)
    assert surface.hd95_pooled(distances) == 0


def test_hd95_pooled_interpolates_the_distances_of_both_directions():
    distances = surface.SurfaceDistances(np.zeros(10), np.array([0.0] * 10 + [4.0]))
    # 21 values: the 95th percentile has the rank 0.95 * 20 = 19, the last zero.
    assert surface.hd95_pooled(distances) == 0
    distances = surface.SurfaceDistances(np.zeros(9), np.array([4.0, 8.0]))
    # 11 values: the rank 9.5 is half-way between 4 and 8.
    assert surface.hd95_pooled(distances) == pytest.approx(6)


def test_hd100_is_the_maximum_and_assd_the_mean():
    distances = surface.SurfaceDistances(np.array([1.0, 3.0]), np.array([0.0, 0.0, 0.0, 6.0]))
    assert surface.hd100(distances) == 6
    assert surface.assd(distances) == pytest.approx(10 / 6)
    swapped = surface.SurfaceDistances(distances.prediction_to_truth, distances.truth_to_prediction)
    assert surface.hd100(swapped) == 6


def test_structures_in_one_pass_equal_single_structures():
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(0, 8, (2, 6, 7, 5), np.uint8)
    truth[truth == 4] = 0
    structures = surface.structure_distances(truth, prediction & 0b1011, SPACING_MM)
    assert list(structures) == [1, 2]  # bit 4 is not in the prediction, bit 8 in neither
    for bit, distances in structures.items():
        alone = surface.surface_distances(truth & bit != 0, prediction & bit != 0, SPACING_MM)
        for name in ("truth_to_prediction", "prediction_to_truth"):
            np.testing.assert_array_equal(getattr(distances, name), getattr(alone, name))


def test_shifted_cube():
    truth, prediction = np.zeros((2, 12, 12, 12), bool)
    truth[2:7, 2:7, 2:7] = True
    prediction[4:9, 2:7, 2:7] = True
    distances = surface.surface_distances(truth, prediction, (1, 1, 1))
    # A 5-cube has 5**3 - 3**3 surface voxels; its far face is 2 mm from the other cube.
    assert distances.truth_to_prediction.size == 98
    assert distances.truth_to_prediction.max() == 2
    assert surface.hd95(distances) == 2


def test_surface_is_six_connected_and_includes_the_edge_of_the_array():
    cube = np.ones((3, 3, 3), bool)
    hollow = cube.copy()
    hollow[1, 1, 1] = False
    np.testing.assert_array_equal(surface.surface_codes(cube.view(np.uint8)), hollow)
    inside = np.pad(cube, 1)
    inside[0, 0, 0] = True  # touches the cube at a corner, which is not a face neighbour
    assert not surface.surface_codes(inside.view(np.uint8))[2, 2, 2]


def test_empty_mask_is_an_error():
    with pytest.raises(ValueError, match="no surface"):
        surface.surface_distances(np.zeros((2, 2, 2), bool), np.ones((2, 2, 2), bool), (1, 1, 1))


@settings(max_examples=60, derandomize=True)
@given(masks, masks, st.tuples(*[st.sampled_from([0.5, 1.0, 2.5])] * 3))
def test_distances_equal_the_minimum_over_all_pairs(truth, prediction, spacing_mm):
    distances = surface.surface_distances(truth, prediction, spacing_mm)
    pairs = cdist(surface_indices(truth) * spacing_mm, surface_indices(prediction) * spacing_mm)
    np.testing.assert_allclose(distances.truth_to_prediction, pairs.min(axis=1))
    np.testing.assert_allclose(distances.prediction_to_truth, pairs.min(axis=0))


def surface_indices(mask):
    """Indices of the voxels of `mask` that have one of their six neighbours outside it."""
    padded = np.pad(mask, 1)
    steps = [np.roll(padded, step, axis) for axis in range(3) for step in (-1, 1)]
    return np.argwhere((padded & ~np.logical_and.reduce(steps))[1:-1, 1:-1, 1:-1])
