import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brats_tfrecord.training.data import filters

BLURS = [filters.blur, filters.fast_blur]
NOISES = [filters.add_noise, filters.add_fast_noise]


@pytest.mark.parametrize("blur", BLURS)
def test_blur_of_a_point_is_a_gaussian_of_the_same_sum(blur):
    point = np.zeros((9, 7, 11), np.float32)
    point[4, 3, 5] = 1
    result = blur(point, 0.8)
    assert result.dtype == np.float32 and result.shape == point.shape
    assert result.sum() == pytest.approx(1, abs=1e-5)
    # A Gaussian of sigma 0.8 is exp(-1 / (2 * 0.64)) one voxel from the peak.
    for neighbour in ((3, 3, 5), (4, 4, 5), (4, 3, 4)):
        assert result[neighbour] / result[4, 3, 5] == pytest.approx(np.exp(-1 / 1.28), rel=1e-4)


@given(st.integers(0, 2**32 - 1), st.floats(0.4, 2))
def test_both_blurs_are_the_same_but_for_rounding(seed, sigma):
    voxels = np.random.default_rng(seed).normal(0, 1, (9, 2, 5)).astype(np.float32)
    slow, fast = (blur(voxels, sigma) for blur in BLURS)
    np.testing.assert_allclose(fast, slow, atol=2e-6)


ENLARGE = [filters.enlarge_by_axis, filters.enlarge_at_once]


@pytest.mark.parametrize("enlarge", ENLARGE)
def test_low_resolution_keeps_some_voxels_and_interpolates_linearly(enlarge):
    ramp = np.broadcast_to(np.arange(8.0, dtype=np.float32)[:, None, None], (8, 4, 2))
    result = filters.lower_resolution(ramp, 0.5, enlarge)
    # Kept: voxels 1, 3, 5, 7 at the centres 0.5, 2.5, 4.5, 6.5; the border is repeated.
    np.testing.assert_allclose(result[:, 0, 0], [1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7], atol=1e-6)
    assert result.shape == ramp.shape and result.dtype == np.float32
    unchanged = filters.lower_resolution(ramp, 1.0, enlarge)
    np.testing.assert_allclose(unchanged, ramp, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1))
def test_by_axis_and_at_once_give_the_same_float16(seed, kept):
    """Runs that an earlier version began see the same patches."""
    voxels = np.random.default_rng(seed).normal(0, 1, (9, 6, 7)).astype(np.float16)
    by_axis, at_once = (
        filters.lower_resolution(voxels.astype(np.float32), kept, enlarge) for enlarge in ENLARGE
    )
    np.testing.assert_array_equal(by_axis.astype(np.float16), at_once.astype(np.float16))


@pytest.mark.parametrize("add_noise", NOISES)
def test_noise_has_its_deviation_and_is_a_function_of_the_seed(add_noise):
    ramp = np.broadcast_to(np.arange(30, dtype=np.float32), (40, 20, 30))
    result = add_noise(ramp, [7, 1], 0.1)
    noise = result - ramp
    assert result.dtype == np.float32
    assert noise.std() == pytest.approx(0.1, rel=0.02) and abs(noise.mean()) < 0.003
    # A normal distribution has 68.3 % within one deviation and 95.4 % within two.
    assert np.mean(np.abs(noise) < 0.1) == pytest.approx(0.683, abs=0.01)
    assert np.mean(np.abs(noise) < 0.2) == pytest.approx(0.954, abs=0.01)
    np.testing.assert_array_equal(result, add_noise(ramp, [7, 1], 0.1))
    assert not np.array_equal(result, add_noise(ramp, [7, 2], 0.1))
