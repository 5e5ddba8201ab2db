"""The brain channel in NumPy, which marks it in masks, and in TensorFlow, which serves it."""

from unittest import mock

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from brats_tfrecord import brain, spec, targets

SHAPE = (4, 3, 5)


def marked(image):
    """The brain channel as training computes it, bool [X, Y, Z]."""
    corners = np.stack([image[voxel] for voxel in brain.corners(image.shape[:3])])
    mask = np.zeros(image.shape[:3], np.uint8)
    brain.mark(image, mask, brain.background_of_corners(corners))
    return mask == brain.MARK


def served(image):
    """The brain channel as the exported graph computes it, bool [X, Y, Z]."""
    return brain.find(tf.constant(image.astype(np.float32))[None]).numpy()[0]


def background_image(dtype=np.float16):
    """A first channel of -1 and a second of -2."""
    return np.broadcast_to(np.array([-1, -2], dtype), (*SHAPE, 2)).copy()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_brain_is_where_any_channel_differs_from_its_background(dtype):
    image = background_image(dtype)
    image[1, 1, 2, 0] = 3  # differs in the first channel,
    image[2, 1, 3, 1] = -1  # in the second, by the background of the first,
    image[3, 0, 1] = -3  # and in both, below the background
    expected = np.zeros(SHAPE, bool)
    expected[1, 1, 2] = expected[2, 1, 3] = expected[3, 0, 1] = True
    np.testing.assert_array_equal(marked(image), expected)
    np.testing.assert_array_equal(served(image), expected)


@pytest.mark.parametrize("value, count, is_found", [(9, 4, True), (9, 5, False), (-9, 3, True)])
def test_the_background_is_found_although_some_corners_differ(value, count, is_found):
    image = background_image()
    for voxel in brain.corners(SHAPE)[:count]:
        image[voxel] = value
    expected = (image == value).all(axis=-1)
    assert np.array_equal(marked(image), expected) == is_found
    np.testing.assert_array_equal(served(image), marked(image))


def test_corners_without_background_give_the_same_channel_on_both_sides():
    image = np.random.default_rng(0).normal(size=(*SHAPE, 3)).astype(np.float16)
    fourth = sorted(float(image[voxel][0]) for voxel in brain.corners(SHAPE))[3]
    assert brain.background(tf.constant(image[None], tf.float32))[0, 0, 0, 0, 0] == fourth
    np.testing.assert_array_equal(served(image), marked(image))


def test_a_constant_channel_shows_no_brain():
    image = background_image()
    image[..., 1] = 0  # as the z-score of a modality that is missing
    assert not marked(image).any() and not served(image).any()
    image[2, 1, 2, 0] = 5
    for inside in (marked(image), served(image)):
        assert np.argwhere(inside).tolist() == [[2, 1, 2]]


def test_zeros_of_both_signs_are_equal():
    image = np.zeros((*SHAPE, 1), np.float16)
    image[1, 1, 1], image[2, 1, 1] = -0.0, 2**-24  # the smallest float16
    for inside in (marked(image), served(image)):
        assert np.argwhere(inside).tolist() == [[2, 1, 1]]


def test_an_image_of_a_single_plane_has_four_corners_and_a_line_two():
    assert brain.corners((1, 2, 3)) == [(0, 0, 0), (0, 0, 2), (0, 1, 0), (0, 1, 2)]
    assert brain.corners((3, 1, 1)) == [(0, 0, 0), (2, 0, 0)]
    plane = np.arange(6, dtype=np.float16).reshape(1, 2, 3, 1)
    for inside in (marked(plane), served(plane)):  # corners 0, 2, 3, 5: the second smallest
        assert np.argwhere(~inside).tolist() == [[0, 0, 2]]


VALUES = st.sampled_from([-2.0, -0.5, -0.0, 0.0, 0.25, 3.0])


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=50)
def test_masks_and_graph_agree_on_any_image(data):
    """In blocks of a single plane of X, of several, and in one block."""
    block = data.draw(st.sampled_from([1, 6, brain.BLOCK]))
    shape = data.draw(st.tuples(*[st.integers(1, 4)] * 3, st.integers(1, 3)))
    dtype = data.draw(st.sampled_from([np.float16, np.float32]))
    image = data.draw(arrays.arrays(dtype, shape, elements=VALUES))
    with mock.patch.object(brain, "BLOCK", block):
        np.testing.assert_array_equal(served(image), marked(image))


def test_the_mark_is_a_bit_of_no_class_and_no_target_sees_it():
    bits = [1 << class_id for class_id in range(len(spec.CLASS_NAMES))]
    assert max(bits) < brain.MARK
    packed = np.array([0, *bits], np.uint8)
    for name in targets.NAMES:
        truth = targets.make_targets(name, 5).truth
        np.testing.assert_array_equal(truth(packed | np.uint8(brain.MARK)), truth(packed))
    assert not brain.is_marked(tf.constant(packed)).numpy().any()
    assert brain.is_marked(tf.constant(packed | brain.MARK, tf.uint8)).numpy().all()


def test_the_channel_follows_the_others():
    image = tf.reshape(tf.range(12.0), (1, 1, 2, 3, 2))
    inside = tf.constant([[[[True, False, False], [False, False, True]]]])
    result = brain.append(image, inside).numpy()
    np.testing.assert_array_equal(result[..., :2], image)
    assert result[0, 0, ..., 2].tolist() == [[1, 0, 0], [0, 0, 1]]
