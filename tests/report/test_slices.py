"""Planes, the choice of slices and the grey window."""

import numpy as np
import pytest

from brats_tfrecord import spec
from brats_tfrecord.report import slices


def test_plane_image_has_the_axes_of_its_plane():
    x, y, z = np.indices((4, 5, 6))
    index = 100 * x + 10 * y + z
    axial, coronal, sagittal = (slices.plane_image(index, axis, 1) for axis in (2, 1, 0))
    # The first column is the patient's right (or front), the first row the front (or top).
    assert axial.shape == (5, 4) and axial[0, 0] == 1 and axial[4, 3] == 341
    assert coronal.shape == (6, 4) and coronal[0, 0] == 15 and coronal[5, 3] == 310
    assert sagittal.shape == (6, 5) and sagittal[0, 0] == 105 and sagittal[5, 4] == 140


def test_the_slice_with_most_tumour_is_chosen():
    truth = np.zeros((12, 14, 16), np.uint8)
    truth[3:9, 4:10, 5:11] = spec.ED
    truth[4, 3:11, 5:11] = truth[3:9, 6, 4:12] = truth[3:9, 3:11, 9] = spec.ED
    assert slices.most_informative_slices(truth, truth) == (4, 6, 9)
    assert slices.most_informative_slices(None, truth) == (4, 6, 9)


def test_disagreement_counts_twice():
    truth, prediction = np.zeros((2, 30, 20, 10), np.uint8)
    truth[5, 2:12, 2:5] = prediction[5, 2:12, 2:5] = spec.ED  # 30 voxels agreed on
    truth[9, 2:12, 2:4] = spec.ED  # 20 voxels missed
    assert slices.most_informative_slices(truth, prediction)[0] == 9
    prediction[9, 2:12, 2:4] = spec.ED
    assert slices.most_informative_slices(truth, prediction)[0] == 5


def test_a_small_class_weighs_more_than_its_share_of_voxels():
    truth = np.zeros((30, 20, 20), np.uint8)
    truth[5, :10, :10] = spec.ED
    truth[20, :9, :10] = spec.ED
    truth[20, 9:10, :10] = spec.ET
    # Both slices have equally many voxels, so without weights the first would be chosen.
    assert slices.most_informative_slices(truth, truth)[0] == 20


def test_without_tumour_the_middle_slices_are_chosen():
    assert slices.most_informative_slices(None, np.zeros((8, 10, 12), np.uint8)) == (4, 5, 6)


def test_letters_agree_with_the_axes():
    opposite = dict(zip("LPSRAI", "RAILPS"))
    for plane in slices.PLANES:
        grows_right, grows = "LPS"[plane.columns], "LPS"[plane.rows]
        left, right, top, bottom = plane.letters
        assert (left, right) == (opposite[grows_right], grows_right)
        assert (top, bottom) == (
            (opposite[grows], grows) if plane.axis == 2 else (grows, opposite[grows])
        )
        assert {plane.axis, plane.columns, plane.rows} == {0, 1, 2}


def test_grey_window_leaves_out_the_extremes():
    values = np.arange(1001.0)
    assert slices.grey_window(values) == pytest.approx((10, 995))
    assert slices.grey_window(values.reshape(7, 11, 13)) == pytest.approx((10, 995))


def test_grey_window_of_constant_or_missing_values_is_not_empty():
    assert slices.grey_window(np.full(5, 7.0)) == (6, 8)
    assert slices.grey_window(np.zeros(0)) == (0, 1)
