import itertools

import numpy as np
import tensorflow as tf

from brats_tfrecord.serving.ensemble import Ensemble, over_flips


class Constant:
    output_shape = (None, None, None, None, 2)

    def __init__(self, *probabilities):
        self.probabilities = probabilities

    def __call__(self, image):
        return tf.zeros_like(image[..., :1]) + tf.constant(self.probabilities)


def test_an_ensemble_is_the_mean_of_its_networks():
    image = tf.zeros([1, 2, 3, 4, 5])
    both = Ensemble([Constant(0.1, 0.9), Constant(0.6, 0.4), Constant(0.2, 0.8)])
    np.testing.assert_allclose(both(image)[0, 1, 2, 3], [0.3, 0.7], atol=1e-6)
    assert both(image).shape == (1, 2, 3, 4, 2) and both.output_shape[-1] == 2


def test_each_of_the_eight_flips_is_seen_once_and_flipped_back():
    """A network that adds what depends on where a voxel lies in what it is shown."""
    shape = (2, 3, 4)
    image = np.random.default_rng(0).random((2, *shape, 1)).astype(np.float32)
    place = (np.arange(24).reshape(1, *shape, 1) ** 2).astype(np.float32)
    seen = []

    def predict(shown):
        seen.append(shown.numpy())
        return tf.concat([shown, shown + place], axis=-1)

    found = over_flips(predict, tf.constant(image), 2)
    axes = [axes for count in range(4) for axes in itertools.combinations((1, 2, 3), count)]
    expected = [np.flip(image, one) for one in axes]
    assert len(seen) == 8
    assert all(any(np.array_equal(a, b) for b in seen) for a in expected)
    np.testing.assert_allclose(found[..., :1], image, atol=1e-6)
    mean_place = np.mean([np.flip(place, one) for one in axes], axis=0)
    np.testing.assert_allclose(found[..., 1:], image + mean_place, rtol=1e-6)


def test_a_graph_of_open_extents_holds_one_copy_of_the_network_for_all_flips():
    traced = []

    def predict(shown):
        traced.append(shown.shape.as_list())
        return shown * 2

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None] * 4 + [3])])
    def run(image):
        return over_flips(predict, image, 3)

    for shape in ((1, 2, 3, 4, 3), (2, 5, 4, 3, 3)):
        np.testing.assert_array_equal(run(tf.ones(shape)), np.full(shape, 2))
    assert traced == [[None, None, None, None, 3]]
