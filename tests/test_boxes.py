"""Bounding boxes of masks, on shapes that differ along every axis."""

import numpy as np
import pytest

from brats_tfrecord.boxes import bounding_box


def mask_of(*voxels, dtype=bool):
    mask = np.zeros((4, 5, 6), dtype)
    for voxel in voxels:
        mask[voxel] = True
    return mask


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_the_box_contains_all_voxels_and_nothing_more(dtype):
    mask = mask_of((1, 4, 2), (2, 0, 2), (1, 1, 5), dtype=dtype)
    assert bounding_box(mask) == np.s_[1:3, 0:5, 2:6]


def test_the_box_of_several_masks_contains_all_of_them():
    assert bounding_box(mask_of((3, 1, 1)), mask_of((0, 2, 1)), mask_of()) == np.s_[0:4, 1:3, 1:2]


def test_the_box_of_empty_masks_is_empty():
    assert mask_of()[bounding_box(mask_of(), mask_of())].size == 0
