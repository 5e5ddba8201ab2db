import numpy as np
import pytest

from brats_tfrecord.training.data import augment, augment_intensity

SHAPE = (6, 5, 4)


def image_of(dtype=np.float16, seed=0):
    return np.random.default_rng(seed).normal(0, 1, (*SHAPE, 2)).astype(dtype)


def changed(image, **drawn):
    image = image.copy()
    augment_intensity.change(image, augment.Draw(origin=np.zeros(3, int), **drawn))
    return image


def pair(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize("dtype, tolerance", [(np.float16, 2e-3), (np.float32, 1e-6)])
def test_scale_and_shift_of_each_channel(dtype, tolerance):
    image = image_of(dtype)
    found = changed(image, linear=(pair(1.1, 0.9), pair(0.1, -0.05)))
    assert found.dtype == dtype
    expected = image.astype(np.float64) * [1.1, 0.9] + [0.1, -0.05]
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_half_precision_is_worked_out_in_single_and_rounded_once():
    image = image_of()
    found = changed(image, linear=(pair(1.07, 0.93), pair(0.03, 0.08)))
    expected = image.astype(np.float32) * pair(1.07, 0.93) + pair(0.03, 0.08)
    np.testing.assert_array_equal(found, expected.astype(np.float16))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_gamma_keeps_the_extremes_of_each_channel(dtype):
    image = np.zeros((3, 1, 1, 2), dtype)
    image[:, 0, 0, 0], image[:, 0, 0, 1] = [-1, 1, 3], [5, 7, 5]
    found = changed(image, gamma=pair(2, 0.5))
    # Half way between -1 and 3, squared: a quarter of the way.
    np.testing.assert_allclose(found[:, 0, 0, 0], [-1, 0, 3], atol=1e-6)
    np.testing.assert_allclose(found[:, 0, 0, 1], [5, 7, 5], atol=1e-6)


def test_gamma_leaves_a_constant_channel():
    np.testing.assert_array_equal(
        changed(np.full((3, 2, 2, 2), 4, np.float16), gamma=pair(2, 2)), 4
    )


def test_noise_has_its_deviation_is_replayed_and_differs_between_channels():
    flat = np.zeros((20, 20, 20, 2), np.float32)
    found = changed(flat, noise=(7, pair(0.1, 0.05)))
    np.testing.assert_allclose(found.std(axis=(0, 1, 2)), [0.1, 0.05], rtol=0.05)
    np.testing.assert_allclose(found.mean(axis=(0, 1, 2)), 0, atol=0.005)
    np.testing.assert_array_equal(found, changed(flat, noise=(7, pair(0.1, 0.05))))
    assert abs(np.corrcoef(found[..., 0].ravel(), found[..., 1].ravel())[0, 1]) < 0.05


def test_blur_spreads_a_point_evenly_and_keeps_its_sum():
    point = np.zeros((9, 9, 9), np.float32)
    point[4, 4, 4] = 1
    found = augment_intensity.blur(point, 0.8)
    assert found.dtype == np.float32
    assert found.sum() == pytest.approx(1, abs=1e-5)
    # Of a Gaussian: exp(-1 / (2 * 0.64)) beside the peak, on every axis.
    for beside in ((3, 4, 4), (4, 5, 4), (4, 4, 3)):
        assert found[beside] / found[4, 4, 4] == pytest.approx(np.exp(-1 / 1.28), rel=1e-4)


def test_low_resolution_keeps_some_voxels_and_lines_between_them():
    ramp = np.broadcast_to(np.arange(8.0, dtype=np.float32)[:, None, None], (8, 4, 2))
    found = augment_intensity.lower_resolution(ramp, 0.5)
    # Kept: voxels 1, 3, 5, 7 at the centres 0.5, 2.5, 4.5, 6.5; beyond, the border goes on.
    np.testing.assert_allclose(found[:, 0, 0], [1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7], atol=1e-6)
    assert found.shape == ramp.shape
    np.testing.assert_allclose(augment_intensity.lower_resolution(ramp, 1.0), ramp, atol=1e-6)


def test_nothing_drawn_changes_nothing():
    image = image_of()
    np.testing.assert_array_equal(changed(image), image)


def test_everything_at_once_stays_finite():
    found = changed(
        image_of(),
        blur=pair(0.5, 1),
        low_resolution=pair(0.5, 0.9),
        noise=(1, pair(0.1, 0.1)),
        linear=(pair(1.1, 0.9), pair(0.1, -0.1)),
        gamma=pair(0.7, 1.5),
    )
    assert np.isfinite(found).all() and not np.array_equal(found, image_of())


def test_every_half_becomes_its_single():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(64, 32, 32)
    found = augment_intensity.to_float32(halves)
    np.testing.assert_array_equal(found, halves.astype(np.float32))
