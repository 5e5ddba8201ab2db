"""Windows on arrays: crop, its inverse, and the position of a window on a box."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brats_tfrecord.preprocess.crop import centred, crop, fits, uncrop

shapes = st.tuples(*[st.integers(1, 7)] * 3)
origins = st.tuples(*[st.integers(-4, 8)] * 3)


def test_crop_cuts_the_documented_window():
    volume = np.arange(240 * 240 * 155, dtype=np.int32).reshape(240, 240, 155)
    window = crop(volume, (48, 48, 5), (144, 144, 144))
    np.testing.assert_array_equal(window, volume[48:192, 48:192, 5:149])
    assert fits(volume.shape, (48, 48, 5), (144, 144, 144))
    assert not fits(volume.shape, (48, 48, 12), (144, 144, 144))


def test_crop_pads_with_zeros_outside_the_array():
    np.testing.assert_array_equal(
        crop(np.array([[[1, 2, 3]]]), (0, 0, -1), (1, 1, 3)), [[[0, 1, 2]]]
    )


@given(shape=shapes, origin=origins, window=shapes)
def test_uncrop_restores_all_voxels_inside_the_window(shape, origin, window):
    volume = np.arange(1, np.prod(shape) + 1).reshape(shape)
    back = uncrop(crop(volume, origin, window), origin, shape, fill=-1)
    index = np.moveaxis(np.indices(shape), 0, -1)
    lost = ((index < origin) | (index >= np.add(origin, window))).any(axis=-1)
    np.testing.assert_array_equal(back, np.where(lost, -1, volume))
    assert fits(shape, origin, window) == (np.count_nonzero(~lost) == np.prod(window))


def test_crop_and_uncrop_keep_the_channel_axis():
    volume = np.random.default_rng(0).normal(size=(5, 6, 7, 3))
    window = crop(volume, (1, 2, 3), (3, 3, 3))
    assert window.shape == (3, 3, 3, 3)
    assert uncrop(window, (1, 2, 3), (5, 6, 7)).shape == volume.shape


@pytest.mark.parametrize("origin", [(-9, 0, 0), (0, 99, 0)])
def test_window_outside_the_array_is_empty(origin):
    assert not crop(np.ones((4, 4, 4)), origin, (3, 3, 3)).any()
    np.testing.assert_array_equal(
        uncrop(np.ones((3, 3, 3)), origin, (4, 4, 4), 7), np.full((4, 4, 4), 7)
    )


@pytest.mark.parametrize(
    "box, length, size, first",
    [
        ((10, 16), 40, 10, 8),  # two voxels on either side
        ((10, 15), 40, 10, 7),  # five to spare: floor(7.5), three before and two after
        ((10, 16), 40, 3, 11),  # a box longer by three: one voxel is cut before, two after
        ((10, 15), 40, 3, 11),
        ((1, 7), 40, 10, 0),  # centred, it would start at -1 and is shifted
        ((33, 39), 40, 10, 30),  # centred, it would stop at 41 and is shifted
        ((2, 5), 8, 8, 0),  # as long as the array
        ((0, 4), 8, 12, -4),  # longer than the array, which it must contain
        ((2, 7), 8, 11, -1),  # longer than the array and centred on the box: floor(-1)
        ((2, 6), 8, 11, -2),  # floor(-1.5)
    ],
)
def test_window_is_centred_on_the_box(box, length, size, first):
    assert centred([slice(*box)] * 3, [length] * 3, [size] * 3) == (first,) * 3


@given(data=st.data(), shape=shapes, window=shapes)
def test_window_lies_within_the_array_or_contains_it(data, shape, window):
    ends = [st.tuples(st.integers(0, n), st.integers(0, n)) for n in shape]
    box = [slice(*sorted(data.draw(pair))) for pair in ends]
    for first, length, size in zip(centred(box, shape, window), shape, window):
        assert 0 <= first <= length - size or length - size <= first <= 0
