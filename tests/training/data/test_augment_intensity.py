import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

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


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_contrast_is_about_the_mean_and_keeps_the_range(dtype):
    image = np.zeros((6, 1, 1, 2), dtype)
    image[:, 0, 0, 0], image[:, 0, 0, 1] = [0, 1, 2, 3, 4, 7], [5, 5, 5, 5, 5, 5]
    result = augmented(image, contrast=per_channel(1.5, 0.5))
    # The mean of every second voxel, 0, 2 and 4, is 2: 0 would become -1, and 7 9.5.
    np.testing.assert_allclose(result[:, 0, 0, 0], [0, 0.5, 2, 3.5, 5, 7], atol=1e-6)
    np.testing.assert_allclose(result[:, 0, 0, 1], 5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_inverted_gamma_is_a_power_law_from_the_upper_end(dtype):
    image = np.zeros((3, 1, 1, 2), dtype)
    image[:, 0, 0, 0], image[:, 0, 0, 1] = [-1, 1, 3], [5, 7, 5]
    result = augmented(image, inverted_gamma=per_channel(2, 1))
    # 1 is half way down from 3 to -1; squared, a quarter of the way, which is 2.
    np.testing.assert_allclose(result[:, 0, 0, 0], [-1, 2, 3], atol=1e-6)
    np.testing.assert_allclose(result[:, 0, 0, 1], [5, 7, 5], atol=1e-6)


def test_contrast_then_both_gammas_then_scale_and_shift():
    image = np.reshape([0, 2, 4, 8], (4, 1, 1, 1)).astype(np.float32)
    result = augmented(
        image,
        contrast=per_channel(0.5),
        inverted_gamma=per_channel(2),
        gamma=per_channel(2),
        linear=(per_channel(2), per_channel(1)),
    )
    # Contrast about 2, the mean of 0 and 4: 1, 2, 3, 5. Of the distances to 8, squares over 8:
    # 1.875, 3.5, 4.875, 6.875. Squares over 8: 0.439, 1.531, 2.971, 5.908. Doubled, plus 1.
    np.testing.assert_allclose(result.ravel(), [1.879, 4.0625, 6.941, 12.816], atol=1e-3)


@given(
    stn.arrays(np.float16, (2, 3, 1, 2), elements=st.floats(-100, 100, width=16)),
    st.sampled_from([np.float16, np.float32]),
)
def test_extremes_are_those_of_each_channel(image, dtype):
    low, high = augment_intensity.extremes(image.astype(dtype))
    assert low.dtype == high.dtype == np.float32
    np.testing.assert_array_equal(low, image.min(axis=(0, 1, 2)))
    np.testing.assert_array_equal(high, image.max(axis=(0, 1, 2)))


def test_channels_that_take_no_part_are_unchanged():
    image = image_of()
    result = augmented(
        image,
        blur=per_channel(0, 1),
        low_resolution=per_channel(1, 0.5),
        noise=(3, per_channel(0, 0.1)),
    )
    np.testing.assert_array_equal(result[..., 0], image[..., 0])
    assert not np.array_equal(result[..., 1], image[..., 1])


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
        inverted_gamma=per_channel(1.5, 0.7),
        contrast=per_channel(1.5, 0.7),
    )
    assert np.isfinite(result).all() and not np.array_equal(result, image_of())


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
