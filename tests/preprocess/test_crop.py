import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brats_tfrecord.preprocess.crop import bounding_box, centred, crop, fits, uncrop

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
        crop(np.array([[[1, 2, 3]]]), (0, 0, -1), (1, 1, 3)), [[[0, 1, 2]]]
    )


@given(shape=shapes, origin=origins, window=shapes)
def test_crop_and_uncrop_lose_exactly_what_lies_outside(shape, origin, window):
    volume = np.arange(1, np.prod(shape) + 1).reshape(shape)
    back = uncrop(crop(volume, origin, window), origin, shape, fill=-1)
    place = np.moveaxis(np.indices(shape), 0, -1)
    lost = ((place < origin) | (place >= np.add(origin, window))).any(axis=-1)
    np.testing.assert_array_equal(back, np.where(lost, -1, volume))
    assert fits(shape, origin, window) == (np.count_nonzero(~lost) == np.prod(window))


def test_channels_are_kept():
    volume = np.random.default_rng(0).normal(size=(5, 6, 7, 3))
    window = crop(volume, (1, 2, 3), (3, 3, 3))
    assert window.shape == (3, 3, 3, 3)
    assert uncrop(window, (1, 2, 3), (5, 6, 7)).shape == volume.shape


@pytest.mark.parametrize("origin", [(-9, 0, 0), (0, 99, 0)])
def test_a_window_wholly_outside_is_empty(origin):
    assert not crop(np.ones((4, 4, 4)), origin, (3, 3, 3)).any()
    np.testing.assert_array_equal(
        uncrop(np.ones((3, 3, 3)), origin, (4, 4, 4), 7), np.full((4, 4, 4), 7)
    )


def test_the_box_of_the_true_voxels():
    inside = np.zeros((6, 7, 8), bool)
    inside[1, 5, 7] = inside[3, 2, 4] = True
    assert bounding_box(inside) == ((1, 4), (2, 6), (4, 8))
    assert bounding_box(inside & False) == ((0, 6), (0, 7), (0, 8))


@pytest.mark.parametrize(
    "box, length, size, first",
    [
        ((10, 16), 40, 10, 8),  # two voxels on either side
        ((10, 15), 40, 10, 7),  # five to spare: floor(7.5), three before and two after
        ((10, 16), 40, 3, 11),  # a box too long by three: one is cut before, two after
        ((10, 15), 40, 3, 11),
        ((1, 7), 40, 10, 0),  # centred it would begin at -1: shifted in
        ((33, 39), 40, 10, 30),  # and here it would end at 41
        ((2, 5), 8, 8, 0),  # one place to be
        ((0, 4), 8, 12, -4),  # a short axis lies wholly within, as far as it must be shifted
        ((2, 7), 8, 11, -1),  # and is centred on the box: floor(-1)
        ((2, 6), 8, 11, -2),  # floor(-1.5)
    ],
)
def test_a_window_is_centred_on_the_box(box, length, size, first):
    assert centred([box] * 3, [length] * 3, [size] * 3) == (first,) * 3


@given(data=st.data(), shape=shapes, window=shapes)
def test_neither_padding_nor_loss_that_a_shift_avoids(data, shape, window):
    box = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    for first, length, size in zip(centred(box, shape, window), shape, window):
        assert 0 <= first <= length - size or length - size <= first <= 0
