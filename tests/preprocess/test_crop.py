import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brats_tfrecord.preprocess.crop import crop, fits, outside, uncrop

shapes = st.tuples(*[st.integers(1, 7)] * 3)
origins = st.tuples(*[st.integers(-4, 8)] * 3)


def test_the_documented_window():
    volume = np.arange(240 * 240 * 155, dtype=np.int32).reshape(240, 240, 155)
    window = crop(volume, (48, 48, 5), (144, 144, 144))
    np.testing.assert_array_equal(window, volume[48:192, 48:192, 5:149])
    assert fits(volume.shape, (48, 48, 5), (144, 144, 144))
    assert not fits(volume.shape, (48, 48, 12), (144, 144, 144))


def test_a_window_that_leaves_the_volume_is_padded_with_zeros():
    np.testing.assert_array_equal(
        crop(np.array([[[1, 2, 3]]]), (0, 0, -1), (1, 1, 3)), [[[0, 1, 2]]])


@given(shape=shapes, origin=origins, window=shapes)
def test_crop_and_uncrop_lose_exactly_what_lies_outside(shape, origin, window):
    volume = np.arange(1, np.prod(shape) + 1).reshape(shape)
    back = uncrop(crop(volume, origin, window), origin, shape, fill=-1)
    lost = outside(shape, origin, window)
    np.testing.assert_array_equal(back, np.where(lost, -1, volume))
    if fits(shape, origin, window):
        assert np.count_nonzero(~lost) == np.prod(window)


def test_channels_are_kept():
    volume = np.random.default_rng(0).normal(size=(5, 6, 7, 3))
    window = crop(volume, (1, 2, 3), (3, 3, 3))
    assert window.shape == (3, 3, 3, 3)
    assert uncrop(window, (1, 2, 3), (5, 6, 7)).shape == volume.shape


@pytest.mark.parametrize("origin", [(-9, 0, 0), (0, 99, 0)])
def test_a_window_wholly_outside_is_empty(origin):
    assert not crop(np.ones((4, 4, 4)), origin, (3, 3, 3)).any()
    assert outside((4, 4, 4), origin, (3, 3, 3)).all()
