import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.serving import windows
from brats_tfrecord.training.network.unet import build_unet


class Pointwise:
    """A network that looks at one voxel alone: windows must not change its answer."""

    output_shape = (None, None, None, None, 2)

    def __init__(self):
        self.shapes = []

    def __call__(self, image):
        self.shapes.append(tuple(image.shape))
        return tf.concat([image, 1 - image], axis=-1)


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(windows, "WINDOW", 8)


def image(shape, channels=1):
    return tf.constant(np.random.default_rng(0).random((1, *shape, channels)), tf.float32)


@pytest.mark.parametrize("shape", [(8, 8, 8), (9, 17, 30), (3, 8, 21)])
def test_windows_cover_every_voxel_and_blend_to_the_same(small_windows, shape):
    network = Pointwise()
    found = windows.predict_windows(network, image(shape), stride=4)
    np.testing.assert_allclose(found, network(image(shape)), atol=1e-6)
    assert set(network.shapes[:-1]) == {(1, 8, 8, 8, 1)}


def test_starts_are_even_and_flush_with_both_ends():
    starts = windows._starts(tf.constant([8, 12, 21]), 8).numpy()
    assert [sorted(set(starts[:, axis].tolist())) for axis in range(3)] == [
        [0],
        [0, 4],
        [0, 3, 6, 9, 13],
    ]


def test_whole_images_are_padded_to_the_stride_and_cropped_back():
    network = Pointwise()
    found = windows.predict_whole(network, image((5, 8, 13)), stride=4)
    assert network.shapes == [(1, 8, 8, 16, 1)] and found.shape == (1, 5, 8, 13, 2)


def test_size_decides_between_one_piece_and_windows(small_windows):
    network = build_unet((None, None, None, 2), 3, (4, 8), (0,) * 3, seed=1)
    small, large = image((6, 10, 8), 2), image((16, 14, 12), 2)
    whole = windows.predict_whole(network, small, 2)
    np.testing.assert_array_equal(windows.predict(network, small, 2, 480), whole)
    in_windows = windows.predict_windows(network, large, 2)
    np.testing.assert_array_equal(windows.predict(network, large, 2, 480), in_windows)
    # A real network sees less at a window's edge; the blend stays a distribution.
    np.testing.assert_allclose(tf.reduce_sum(in_windows, -1), 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 8, 17), (4, 12, 7)])
def test_constant_extents_give_what_open_ones_give(small_windows, shape):
    """TensorFlow 2.15 folds constant paddings into a convolution, and gets their shape wrong."""
    network = build_unet((None, None, None, 2), 3, (4, 8), (0,) * 3, seed=1)
    for predict in (windows.predict_whole, windows.predict_windows):
        constant = tf.function(lambda image, predict=predict: predict(network, image, 4))
        eager = predict(network, image(shape, 2), 4)
        np.testing.assert_allclose(constant(image(shape, 2)), eager, atol=1e-6)


@pytest.mark.soak
def test_windows_over_the_documented_crop_differ_little_from_one_piece():
    """The documented U-Net on 144³: eight windows of 128³, against the whole in one piece.

    Measured with random weights: probabilities differ by 0.039 at most and by 0.00045 on
    average, and 0.08 % of all voxels change their class (0.24 % of the brain's). All of it comes
    from where a window ends: there the network sees zeros, and in one piece the image.
    """
    network = build_unet((None, None, None, 3), 4, seed=1)
    axes = np.indices((144, 144, 144), sparse=True)
    brain = sum(((axis - 71.5) / 60) ** 2 for axis in axes) < 1
    noise = np.random.default_rng(0).normal(size=(144, 144, 144, 3))
    whole = np.where(brain[..., None], 1 + 0.3 * noise, -0.7)[None].astype(np.float32)
    found = windows.predict_windows(network, whole, 16).numpy()
    expected = windows.predict_whole(network, whole, 16).numpy()
    off = np.abs(found - expected)
    assert 1e-6 < off.max() < 0.05 and off.mean() < 0.001
    assert (found.argmax(-1) != expected.argmax(-1)).mean() < 0.002
