import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brats_tfrecord.training.data import augment, elastic

PATCH = (17, 9, 13)  # distances of control points: 4, 2 and 3 voxels
POINTS = augment.ELASTIC_POINTS
WHOLE = slice(None)


def field(points, patch_shape=PATCH):
    """The displacement [3, X, Y, Z] of control points [3, G, G, G] in voxels."""
    return elastic.Displacement(np.asarray(points, float), patch_shape, np.dtype(float))(WHOLE)


def random_points(seed, strength=0.4):
    return np.random.default_rng(seed).uniform(-strength, strength, (3, *[POINTS] * 3))


def test_equal_displacements_move_every_voxel_alike():
    points = np.ones((3, *[POINTS] * 3)) * np.reshape([1, -2, 0.5], (3, 1, 1, 1))
    moved = field(points)
    assert moved.shape == (3, *PATCH)
    for axis, expected in enumerate((1, -2, 0.5)):
        np.testing.assert_allclose(moved[axis], expected)


def test_displacements_that_grow_linearly_do_so_between_the_points():
    points = np.zeros((3, *[POINTS] * 3))
    points[1] = np.arange(-1, 6)[:, None, None]  # the first voxel lies at the second point
    np.testing.assert_allclose(field(points)[1, :, 4, 6], np.arange(17) / 4, atol=1e-12)


def test_one_point_is_felt_by_its_neighbours_as_a_cubic_b_spline():
    points = np.zeros((3, *[POINTS] * 3))
    points[2, 3] = 6  # a plane of points, over voxel 8 of X
    along_x = field(points)[2, :, 0, 0]
    # 4/6 and 1/6 of it at distances 0 and 1, and (3/2)^3/6 - 4 (1/2)^3/6 = 23/48 half way.
    np.testing.assert_allclose(along_x[[8, 4, 12, 6, 0, 16]], [4, 1, 1, 23 / 8, 0, 0], atol=1e-12)


def test_blocks_are_parts_of_the_whole():
    displacement = elastic.Displacement(random_points(0), PATCH, np.dtype(np.float32))
    assert displacement(WHOLE).dtype == np.float32
    np.testing.assert_allclose(displacement(slice(5, 8)), displacement(WHOLE)[:, 5:8], atol=1e-6)


def test_displacements_are_converted_from_distances_to_voxels_along_the_axes_of_the_crop():
    displacements = np.zeros((3, *[POINTS] * 3))
    displacements[0] = 0.25  # a quarter of 4 voxels along X of the patch, which is Y of the crop
    swap = np.array([[0.0, 1, 0], [2, 0, 0], [0, 0, 1]])  # and magnified by a half
    points = elastic.in_crop_voxels(displacements, swap, PATCH)
    np.testing.assert_allclose(points[:, 0, 0, 0], [0, 2, 0])
    np.testing.assert_allclose(elastic.reach(-points), [0, 2, 0])


@given(st.integers(0, 2**32 - 1))
def test_no_voxel_moves_further_than_a_control_point(seed):
    points = random_points(seed)
    assert (np.abs(field(points)).max(axis=(1, 2, 3)) <= elastic.reach(points) + 1e-12).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_strongest_deformation_is_smooth_and_does_not_fold(seed):
    strongest = np.sign(random_points(seed)) * max(augment.Augmentation().elastic_strength)
    points = elastic.in_crop_voxels(strongest, np.eye(3), PATCH)
    moved = np.indices(PATCH) + field(points)
    jacobian = np.stack([np.gradient(moved[axis]) for axis in range(3)])
    assert np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))).min() > 0
    # Between two voxels along X, a fourth of a distance, the slope changes by less than
    # max |second difference of control points| / 16.
    change = np.abs(np.diff(field(points), 2, axis=1)).max(axis=(1, 2, 3))
    limit = np.abs(np.diff(points, 2, axis=1)).max(axis=(1, 2, 3)) / 16
    assert (change <= limit + 1e-9).all()


def test_an_axis_of_one_voxel_is_not_deformed():
    points = elastic.in_crop_voxels(random_points(0), np.eye(3), (1, 9, 13))
    moved = field(points, (1, 9, 13))
    np.testing.assert_array_equal(moved[0], 0)
    assert np.abs(moved[1:]).min() >= 0 and np.isfinite(moved).all()
