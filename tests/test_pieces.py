"""Prediction in one piece and in windows."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import pieces
from brats_tfrecord.pieces import Piece
from brats_tfrecord.training.network.unet import build_unet

WINDOWS = Piece((8, 8, 8), stride=4)


class Pointwise:
    """A network that sees one voxel at a time, so that windows cannot change its output."""

    def __init__(self):
        self.shapes = []

    def __call__(self, image):
        self.shapes.append(tuple(image.shape))
        return tf.concat([image, 1 - image], axis=-1)


def image(shape, channels=1):
    return tf.constant(np.random.default_rng(0).random((1, *shape, channels)), tf.float32)


@pytest.mark.parametrize("shape", [(8, 8, 8), (9, 17, 30), (10, 8, 21)])
def test_windows_cover_every_voxel_and_blend_to_the_networks_output(shape):
    network = Pointwise()
    blended = pieces.predict_windows(network, image(shape), 2, WINDOWS)
    np.testing.assert_allclose(blended, network(image(shape)), atol=1e-6)
    assert set(network.shapes[:-1]) == {(1, 8, 8, 8, 1)}


def test_windows_are_spread_evenly_and_touch_both_ends():
    """The image holds the coordinates of its voxels, so windows know where they start."""
    extents = (8, 12, 21)
    coordinates = tf.constant(np.indices(extents).transpose(1, 2, 3, 0)[None], tf.float32)
    starts = []

    def network(window):
        starts.append(window[0, 0, 0, 0].numpy().astype(int).tolist())
        return window

    pieces.predict_windows(network, coordinates, 3, WINDOWS)
    assert [sorted({start[axis] for start in starts}) for axis in range(3)] == [
        [0],
        [0, 4],
        [0, 3, 6, 9, 13],
    ]


def test_a_window_is_never_padded_by_a_stride_or_more():
    """Along x the image is smaller than a window; along z the window is no multiple of 4."""
    network = Pointwise()
    piece = Piece((16, 8, 10), stride=4)
    blended = pieces.predict_windows(network, image((5, 12, 13)), 2, piece)
    np.testing.assert_allclose(blended, network(image((5, 12, 13))), atol=1e-6)
    assert set(network.shapes[:-1]) == {(1, 8, 8, 12, 1)}


def test_whole_images_are_padded_to_the_stride_and_cropped_back():
    network = Pointwise()
    probabilities = pieces.predict_whole(network, image((5, 8, 13)), stride=4)
    assert network.shapes == [(1, 8, 8, 16, 1)] and probabilities.shape == (1, 5, 8, 13, 2)


@pytest.mark.parametrize("in_graph", [False, True])
def test_padding_has_the_value_of_the_background_in_every_channel(in_graph):
    """Tissue fills three of the eight corners, and one voxel is darker than the background."""
    head = np.full((2, 5, 6, 8, 2), -0.5, np.float32)
    head[..., 1] = -1.25
    head[1] -= 1
    head[:, 1:, 2:5, :5] = 3
    head[:, 4, 0, 0], head[:, 4, 5, 0], head[:, 0, 0, 0] = 2, 1, 0.5
    head[:, 0, 5, 7] = -9
    pad = (
        tf.function(
            pieces.pad_to_stride,
            input_signature=[tf.TensorSpec([None] * 4 + [2]), tf.TensorSpec([], tf.int32)],
        )
        if in_graph
        else pieces.pad_to_stride
    )
    padded = np.asarray(pad(tf.constant(head), tf.constant(4) if in_graph else 4))
    assert padded.shape == (2, 8, 8, 8, 2)
    np.testing.assert_array_equal(padded[:, :5, :6], head)
    inside = np.zeros((8, 8, 8), bool)
    inside[:5, :6] = True
    np.testing.assert_array_equal(padded[0][~inside], np.tile([-0.5, -1.25], (272, 1)))
    np.testing.assert_array_equal(padded[1][~inside], np.tile([-1.5, -2.25], (272, 1)))


def test_an_image_of_the_right_extents_is_not_copied():
    fitting = image((4, 8, 12))
    assert pieces.pad_to_stride(fitting, 4) is fitting


def test_images_above_whole_voxels_are_predicted_in_windows():
    network = build_unet((None, None, None, 2), 3, (4, 8), (0,) * 3, seed=1)
    piece = Piece((8, 8, 8), stride=2, whole_voxels=480)
    small, large = image((6, 10, 8), 2), image((16, 14, 12), 2)
    whole = pieces.predict_whole(network, small, 2)
    np.testing.assert_array_equal(pieces.predict(network, small, 3, piece), whole)
    in_windows = pieces.predict_windows(network, large, 3, piece)
    np.testing.assert_array_equal(pieces.predict(network, large, 3, piece), in_windows)
    # A U-Net sees less at a window's edge, but blended probabilities still sum to 1.
    np.testing.assert_allclose(tf.reduce_sum(in_windows, -1), 1, atol=1e-5)
    assert piece.is_whole((6, 10, 8)) and not piece.is_whole((6, 10, 9))
    always = dataclasses.replace(piece, whole_voxels=0)
    np.testing.assert_array_equal(
        pieces.predict(network, small, 3, always), pieces.predict_windows(network, small, 3, always)
    )


@pytest.mark.parametrize("shape", [(9, 8, 17), (4, 12, 7)])
def test_constant_extents_give_the_same_result_as_unknown_ones(shape):
    """TensorFlow 2.15 computes a wrong shape for constant paddings, see `tf_padding`."""
    network = build_unet((None, None, None, 2), 3, (4, 8), (0,) * 3, seed=1)
    for predict in (
        lambda image: pieces.predict_whole(network, image, 4),
        lambda image: pieces.predict_windows(network, image, 3, WINDOWS),
    ):
        expected = predict(image(shape, 2))
        np.testing.assert_allclose(tf.function(predict)(image(shape, 2)), expected, atol=1e-6)
        unknown = tf.function(predict, input_signature=[tf.TensorSpec([None] * 4 + [2])])
        np.testing.assert_allclose(unknown(image(shape, 2)), expected, atol=1e-6)


@pytest.mark.parametrize(
    "takes_statistics, stride, expected",
    [
        (False, 16, Piece((128, 128, 128), 16, 192**3)),
        (False, 48, Piece((144, 144, 144), 48, 192**3)),
        (True, 32, Piece((96, 96, 80), 32, 0)),
    ],
)
def test_the_piece_of_a_network(takes_statistics, stride, expected):
    piece = Piece.of_network(takes_statistics, stride, (96, 96, 80))
    assert piece == expected == Piece.from_json(piece.to_json())
    assert piece.alignment == (1 if takes_statistics else stride)


@pytest.mark.parametrize(
    "fields",
    [{"shape": (8, 8)}, {"shape": (8, 8, 0)}, {"stride": 0}, {"stride": 2.0}, {"whole_voxels": -1}],
)
def test_invalid_fields_are_rejected(fields):
    with pytest.raises(ValueError, match=f"piece {next(iter(fields))} is "):
        dataclasses.replace(WINDOWS, **fields)


@pytest.mark.soak
def test_windows_over_the_documented_crop_differ_little_from_one_piece():
    """The default U-Net on 144³ voxels: eight windows of 128³ against one piece.

    Measured with random weights: probabilities differ by 0.039 at most and by 0.00045 on
    average, and 0.08 % of all voxels change their class (0.24 % of the brain's). The cause is the
    end of each window, where the network sees zeros instead of the image.
    """
    network = build_unet((None, None, None, 3), 4, seed=1)
    axes = np.indices((144, 144, 144), sparse=True)
    brain = sum(((axis - 71.5) / 60) ** 2 for axis in axes) < 1
    noise = np.random.default_rng(0).normal(size=(144, 144, 144, 3))
    whole = tf.constant(np.where(brain[..., None], 1 + 0.3 * noise, -0.7)[None], tf.float32)
    in_windows = pieces.predict_windows(network, whole, 4, Piece((128, 128, 128), 16)).numpy()
    expected = pieces.predict_whole(network, whole, 16).numpy()
    differences = np.abs(in_windows - expected)
    assert 1e-6 < differences.max() < 0.05 and differences.mean() < 0.001
    assert (in_windows.argmax(-1) != expected.argmax(-1)).mean() < 0.002
