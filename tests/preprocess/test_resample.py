"""Resampling to 1 mm and back, on lines that can be interpolated by hand."""

import numpy as np
import pytest

from brats_tfrecord.errors import CaseError
from brats_tfrecord.preprocess.resample import classes_to, grid_shape, volumes_to


@pytest.mark.parametrize(
    "shape, spacing, expected",
    [
        ((240, 240, 155), (1, 1, 1), (240, 240, 155)),
        ((240, 240, 155), (0.96, 1.04, 1.0), (240, 240, 155)),  # within 5 %: unchanged
        ((256, 256, 32), (0.9375, 0.9375, 5), (240, 240, 160)),
        ((100, 80, 61), (1.04, 1.0, 2.5), (104, 80, 152)),  # 152.5 to even
        ((3, 9, 2), (0.1, 1, 1), (1, 9, 2)),  # at least one voxel
    ],
)
def test_grid_shape_is_the_extent_in_millimetres(shape, spacing, expected):
    assert grid_shape(shape, spacing, "A") == expected


def test_too_large_a_grid_is_an_error():
    with pytest.raises(
        CaseError,
        match="A_001: 240x240x155 voxels of 1 x 1 x 1e.04 mm make a 1 mm "
        "grid of 240x240x1550000; .* repair the spacing",
    ):
        grid_shape((240, 240, 155), (1, 1, 1e4), "A_001")


def line(values, axis):
    """[…] along `axis` of an array whose other axes, of 2 and 3 voxels, are constant."""
    values = np.asarray(values)
    shape = [2, 2, 2]
    shape[axis] = values.size
    shape[(axis + 1) % 3] = 3
    return np.broadcast_to(np.expand_dims(values, [n for n in range(3) if n != axis]), shape)


@pytest.mark.parametrize("axis", range(3))
def test_grids_share_their_corners(axis):
    """Two voxels of 2 mm, centres at 1 and 3 mm; four of 1 mm, centres at 0.5, 1.5, 2.5, 3.5."""
    thick, thin = line([10.0, 20.0], axis), line([10.0, 12.5, 17.5, 20.0], axis)
    thick, thin = (np.stack([array, -array], axis=-1).astype(np.float32) for array in (thick, thin))
    np.testing.assert_allclose(volumes_to(thin.shape[:3], thick), thin)
    back = np.stack([line([11.25, 18.75], axis), -line([11.25, 18.75], axis)], axis=-1)
    np.testing.assert_allclose(volumes_to(thick.shape[:3], thin), back)


@pytest.mark.parametrize("axis", range(3))
def test_classes_are_repeated_along_a_single_axis(axis):
    """Each class of the 3 mm slices 1 3 2 0 0 4 gets three voxels, and no other class appears."""
    thick = line(np.array([1, 3, 2, 0, 0, 4], np.uint8), axis)
    thin = line(np.repeat(np.array([1, 3, 2, 0, 0, 4], np.uint8), 3), axis)
    resampled = classes_to(thin.shape, thick)
    np.testing.assert_array_equal(resampled, thin)
    assert resampled.dtype == np.uint8
    np.testing.assert_array_equal(classes_to(thick.shape, thin), thick)


def test_majority_of_eight_small_voxels_wins():
    fine = np.zeros((2, 2, 6), np.uint8)
    fine[0, :, 0:2] = 3  # 4 to 4: the lower class
    fine[0, :, 2:4] = fine[1, 0, 2] = 2  # 5 to 3
    fine[0, :, 4:6], fine[1, :, 4], fine[1, :, 5] = 4, 1, 3  # 4 to 2 to 2
    np.testing.assert_array_equal(classes_to((1, 1, 3), fine), [[[0, 2, 4]]])


def test_equal_shapes_return_the_same_array():
    volumes = np.random.default_rng(0).normal(size=(4, 5, 6, 2)).astype(np.float32)
    assert volumes_to((4, 5, 6), volumes) is volumes
    classes = np.zeros((4, 5, 6), np.uint8)
    assert classes_to((4, 5, 6), classes) is classes


def test_one_voxel_fills_the_grid():
    assert (volumes_to((3, 4, 5), np.full((1, 1, 1, 1), 7, np.float32)) == 7).all()
