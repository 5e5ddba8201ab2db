"""Averages over networks and flips, and how often a network is traced."""

import dataclasses
import itertools

import numpy as np
import pytest
import stand_in
import tensorflow as tf

from brats_tfrecord.pieces import Piece
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.export import export_predictor
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.predictor import Predictor, average, average_over_flips

pytestmark = pytest.mark.slow


def constant_network(*probabilities):
    return lambda image: tf.zeros_like(image[..., :1]) + tf.constant(probabilities)


def test_the_average_is_the_mean_of_the_networks():
    image = tf.zeros([1, 2, 3, 4, 5])
    networks = [constant_network(0.1, 0.9), constant_network(0.6, 0.4), constant_network(0.2, 0.8)]
    mean = average(networks, image)
    np.testing.assert_allclose(mean[0, 1, 2, 3], [0.3, 0.7], atol=1e-6)
    assert mean.shape == (1, 2, 3, 4, 2)


def test_each_of_the_eight_flips_is_predicted_once_and_flipped_back():
    """The network adds a number that depends on a voxel's index in the flipped image."""
    shape = (2, 3, 4)
    image = np.random.default_rng(0).random((2, *shape, 1)).astype(np.float32)
    by_index = (np.arange(24).reshape(1, *shape, 1) ** 2).astype(np.float32)
    inputs = []

    def predict(flipped):
        inputs.append(flipped.numpy())
        return tf.concat([flipped, flipped + by_index], axis=-1)

    mean = average_over_flips(predict, tf.constant(image), 2)
    flips = [axes for count in range(4) for axes in itertools.combinations((1, 2, 3), count)]
    assert len(inputs) == 8
    for axes in flips:
        assert any(np.array_equal(np.flip(image, axes), flipped) for flipped in inputs)
    np.testing.assert_allclose(mean[..., :1], image, atol=1e-6)
    mean_by_index = np.mean([np.flip(by_index, axes) for axes in flips], axis=0)
    np.testing.assert_allclose(mean[..., 1:], image + mean_by_index, rtol=1e-6)


def test_a_graph_with_unknown_extents_contains_the_network_once_for_all_flips():
    traced = []

    def predict(image):
        traced.append(image.shape.as_list())
        return image * 2

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None] * 4 + [3])])
    def run(image):
        return average_over_flips(predict, image, 3)

    for shape in ((1, 2, 3, 4, 3), (2, 5, 4, 3, 3)):
        np.testing.assert_array_equal(run(tf.ones(shape)), np.full(shape, 2))
    assert traced == [[None, None, None, None, 3]]


class CountingNetwork:
    """A network of one voxel that counts how often it is traced."""

    input_shape = (None, None, None, None, 3)
    output_shape = (None, None, None, None, 4)

    def __init__(self):
        self.weights = [tf.Variable(np.random.default_rng(0).normal(size=(3, 4)), dtype=tf.float32)]
        self.traces = 0

    def __call__(self, image):
        self.traces += 1
        return tf.nn.softmax(tf.linalg.matmul(image, self.weights[0]))


@pytest.mark.parametrize("flips", [False, True])
def test_prediction_in_memory_and_export_share_one_trace(tmp_path, flips):
    """The exported model has the post-processing that was chosen after the first prediction."""
    recipe = Recipe("none", crop_shape=(8, 12, 10), crop="brain")
    card = stand_in.model_card(recipe, flips=flips, piece=Piece((8, 8, 8), 4, 500))
    networks = [CountingNetwork(), CountingNetwork()]
    predictor = Predictor(networks, card)
    for shape in ((1, 9, 8, 7, 3), (2, 6, 10, 9, 3)):  # in windows, and in one piece
        image = tf.random.stateless_normal(shape, (1, 2))
        before = predictor.predict(image=image)["probabilities"].numpy()
    tuned = dataclasses.replace(card, post_processing=PostProcessing(10**6))
    export_predictor(predictor, tuned, tmp_path / "model")
    assert [network.traces for network in networks] == [1, 1]
    model = tf.saved_model.load(str(tmp_path / "model"))
    after = model.signatures["serving_default"](image=image)["probabilities"].numpy()
    np.testing.assert_array_equal(after, before)
    volume = np.random.default_rng(0).gamma(2, 200, (14, 15, 16, 3)).astype(np.float32)
    result = model.signatures["segment"](volume=tf.constant(volume))
    assert 3 in result["probabilities"].numpy().argmax(axis=-1)
    assert 4 not in result["labels"].numpy(), "enhancing tumour below the threshold is replaced"


class BrainNetwork:
    """A network whose probability of the second class is its last input channel."""

    input_shape = (None, None, None, None, 4)
    output_shape = (None, None, None, None, 4)
    weights = ()

    def __call__(self, image):
        inside = image[..., 3:]
        return tf.concat([1 - inside, inside, 0 * inside, 0 * inside], axis=-1)


@pytest.mark.parametrize("piece", [Piece((8, 8, 8), 4, 10**6), Piece((4, 8, 6), 4)])
@pytest.mark.parametrize("flips", [False, True])
def test_the_brain_channel_is_that_of_the_whole_image(tmp_path, piece, flips):
    """Also in windows, which lie inside the brain and have no background in their corners."""
    card = stand_in.model_card(Recipe("none"), piece=piece, flips=flips, brain_channel=True)
    image = np.full((2, 9, 13, 11, 3), (-1, -2, 0), np.float32)  # T2 is missing
    image[:, 2:8, 3:12, 1:9, 0] = np.random.default_rng(0).normal(size=(2, 6, 9, 8))
    image[1, 4, 5, 10, 1] = 7
    image[:, 5, 6, 7, :2] = (-1, -2)  # a hole in the brain
    export_predictor(Predictor(BrainNetwork(), card), card, tmp_path / "model")
    model = tf.saved_model.load(str(tmp_path / "model"))
    served = model.signatures["serving_default"](image=tf.constant(image))["probabilities"]
    expected = (image != np.array([-1, -2, 0], np.float32)).any(axis=-1)
    assert expected[1, 4, 5, 10] and not expected[0, 4, 5, 10] and not expected[:, 5, 6, 7].any()
    np.testing.assert_array_equal(served[..., 1], expected)


def test_a_network_without_the_brain_channel_of_its_card_is_refused():
    card = stand_in.model_card(Recipe("none"), brain_channel=True)
    with pytest.raises(ValueError, match="has 3 input .* the card expects 4 and 4"):
        Predictor([BrainNetwork(), CountingNetwork()], card)
