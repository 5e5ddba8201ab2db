import numpy as np
import pytest

from brats_tfrecord.training.data import augment, augment_intensity

SHAPE = (6, 5, 4)


def image_of(dtype=np.float16, seed=0):
    return np.random.default_rng(seed).normal(0, 1, (*SHAPE, 2)).astype(dtype)


def augmented(image, **transforms):
    """Returns a copy of the image with the given transforms of `PatchParameters` applied."""
    image = image.copy()
    parameters = augment.PatchParameters(origin=np.zeros(3, int), **transforms)
    augment_intensity.augment_intensities(image, parameters)
    return image


def per_channel(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize("dtype, tolerance", [(np.float16, 2e-3), (np.float32, 1e-6)])
def test_scale_and_shift_of_each_channel(dtype, tolerance):
    image = image_of(dtype)
    result = augmented(image, linear=(per_channel(1.1, 0.9), per_channel(0.1, -0.05)))
    assert result.dtype == dtype
    expected = image.astype(np.float64) * [1.1, 0.9] + [0.1, -0.05]
    np.testing.assert_allclose(result, expected, atol=tolerance)


@pytest.mark.parametrize("block", [2**17, 31])
def test_half_precision_is_computed_in_single_and_rounded_once(monkeypatch, block):
    monkeypatch.setattr(augment_intensity, "BLOCK", block)
    image = image_of()
    result = augmented(image, linear=(per_channel(1.07, 0.93), per_channel(0.03, 0.08)))
    expected = image.astype(np.float32) * per_channel(1.07, 0.93) + per_channel(0.03, 0.08)
    np.testing.assert_array_equal(result, expected.astype(np.float16))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_gamma_keeps_the_extremes_of_each_channel(dtype):
    image = np.zeros((3, 1, 1, 2), dtype)
    image[:, 0, 0, 0], image[:, 0, 0, 1] = [-1, 1, 3], [5, 7, 5]
    result = augmented(image, gamma=per_channel(2, 0.5))
    # 1 is half way between -1 and 3; squared, a quarter of the way, which is 0.
    np.testing.assert_allclose(result[:, 0, 0, 0], [-1, 0, 3], atol=1e-6)
    np.testing.assert_allclose(result[:, 0, 0, 1], [5, 7, 5], atol=1e-6)


def test_gamma_leaves_a_constant_channel_unchanged():
    np.testing.assert_array_equal(
        augmented(np.full((3, 2, 2, 2), 4, np.float16), gamma=per_channel(2, 2)), 4
    )


def test_noise_has_its_deviation_is_repeatable_and_differs_between_channels():
    flat = np.zeros((20, 20, 20, 2), np.float32)
    result = augmented(flat, noise=(7, per_channel(0.1, 0.05)))
    np.testing.assert_allclose(result.std(axis=(0, 1, 2)), [0.1, 0.05], rtol=0.05)
    np.testing.assert_allclose(result.mean(axis=(0, 1, 2)), 0, atol=0.005)
    np.testing.assert_array_equal(result, augmented(flat, noise=(7, per_channel(0.1, 0.05))))
    assert abs(np.corrcoef(result[..., 0].ravel(), result[..., 1].ravel())[0, 1]) < 0.05


def test_blur_of_a_point_is_a_gaussian_of_the_same_sum():
    point = np.zeros((9, 9, 9), np.float32)
    point[4, 4, 4] = 1
    result = augment_intensity.blur(point, 0.8)
    assert result.dtype == np.float32
    assert result.sum() == pytest.approx(1, abs=1e-5)
    # A Gaussian of sigma 0.8 is exp(-1 / (2 * 0.64)) one voxel from the peak.
    for neighbour in ((3, 4, 4), (4, 5, 4), (4, 4, 3)):
        assert result[neighbour] / result[4, 4, 4] == pytest.approx(np.exp(-1 / 1.28), rel=1e-4)


def test_low_resolution_keeps_some_voxels_and_interpolates_linearly():
    ramp = np.broadcast_to(np.arange(8.0, dtype=np.float32)[:, None, None], (8, 4, 2))
    result = augment_intensity.lower_resolution(ramp, 0.5)
    # Kept: voxels 1, 3, 5, 7 at the centres 0.5, 2.5, 4.5, 6.5; the border is repeated.
    np.testing.assert_allclose(result[:, 0, 0], [1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7], atol=1e-6)
    assert result.shape == ramp.shape
    np.testing.assert_allclose(augment_intensity.lower_resolution(ramp, 1.0), ramp, atol=1e-6)


def test_no_transforms_change_nothing():
    image = image_of()
    np.testing.assert_array_equal(augmented(image), image)


def test_all_transforms_together_stay_finite():
    result = augmented(
        image_of(),
        blur=per_channel(0.5, 1),
        low_resolution=per_channel(0.5, 0.9),
        noise=(1, per_channel(0.1, 0.1)),
        linear=(per_channel(1.1, 0.9), per_channel(0.1, -0.1)),
        gamma=per_channel(0.7, 1.5),
    )
    assert np.isfinite(result).all() and not np.array_equal(result, image_of())


def test_every_float16_converts_to_its_float32():
    float16 = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(64, 32, 32)
    result = augment_intensity.to_float32(float16)
    np.testing.assert_array_equal(result, float16.astype(np.float32))


EVERYTHING = {
    "blur": per_channel(0.5, 1),
    "low_resolution": per_channel(0.5, 0.9),
    "noise": (1, per_channel(0.1, 0.1)),
    "linear": (per_channel(1.1, 0.9), per_channel(0.1, -0.1)),
    "gamma": per_channel(0.7, 1.5),
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_dropped_channel_is_0_after_all_transforms_and_the_other_as_without(dtype):
    image = image_of(dtype)
    expected = augmented(image, **EVERYTHING)
    result = augmented(image, **EVERYTHING, dropped=(0,))
    assert not result[..., 0].any()
    np.testing.assert_array_equal(result[..., 1], expected[..., 1])


def test_a_missing_channel_stays_0_if_channels_may_be_dropped():
    image = image_of()
    image[..., 1] = 0
    assert augmented(image, **EVERYTHING)[..., 1].any()  # as in earlier versions
    result = augmented(image, **EVERYTHING, dropped=())
    assert result[..., 0].any() and not result[..., 1].any()


def test_the_only_channel_that_is_not_missing_is_kept():
    image = image_of()
    image[..., 1] = 0
    np.testing.assert_array_equal(augmented(image, dropped=(0,)), image)
    empty = np.zeros_like(image)
    np.testing.assert_array_equal(augmented(empty, **EVERYTHING, dropped=(0,)), empty)
