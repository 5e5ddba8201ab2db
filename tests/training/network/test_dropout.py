"""Masks are a function of layer and example, nothing else."""

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.network import layers
from brats_tfrecord.training.network.layers import SeededDropout

SHAPE = (5, 4, 3, 2)


def drop(layer, numbers, shape=SHAPE, dtype=tf.float32):
    """What training makes of ones."""
    with layers.dropout_numbers(tf.constant(numbers, tf.int64)):
        return layer(tf.ones([len(numbers), *shape], dtype), training=True)


def test_the_kept_share_is_scaled_up():
    found = drop(SeededDropout(0.2, 1), [0, 1], (32, 16, 8, 4)).numpy()
    assert set(np.unique(found)) == {0, 1.25}
    np.testing.assert_allclose((found > 0).mean((1, 2, 3, 4)), 0.8, atol=0.01)
    np.testing.assert_allclose((found > 0).mean((0, 1)), 0.8, atol=0.25)


def test_a_mask_belongs_to_the_example_and_the_layer():
    layer = SeededDropout(0.5, 1)
    both = drop(layer, [7, 2**40]).numpy()
    np.testing.assert_array_equal(both, tf.concat([drop(layer, [7]), drop(layer, [2**40])], 0))
    assert (both[0] != both[1]).mean() > 0.3
    assert (both != drop(SeededDropout(0.5, 2), [7, 2**40]).numpy()).mean() > 0.3


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_masks_are_the_same_in_any_precision(dtype):
    layer = SeededDropout(0.3, 1)
    half = drop(layer, [3], dtype=dtype)
    assert half.dtype == dtype
    np.testing.assert_array_equal(half > 0, drop(layer, [3]) > 0)


def test_gradients_pass_where_values_do():
    layer, x = SeededDropout(0.5, 1), tf.ones([1, *SHAPE])
    with tf.GradientTape() as tape, layers.dropout_numbers(tf.constant([4], tf.int64)):
        tape.watch(x)
        y = layer(x, training=True)
    np.testing.assert_array_equal(tape.gradient(y, x), y)


def test_inference_and_rate_0_change_nothing_and_need_no_numbers():
    x = tf.ones([1, *SHAPE])
    np.testing.assert_array_equal(SeededDropout(0.5, 1)(x), x)
    np.testing.assert_array_equal(SeededDropout(0.0, 1)(x, training=True), x)


def test_training_without_numbers_is_refused():
    x = tf.ones([2, *SHAPE])
    with pytest.raises(ValueError, match="layers.dropout_numbers"):
        SeededDropout(0.5, 1)(x, training=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="reshape"):
        with layers.dropout_numbers(tf.constant([1], tf.int64)):
            SeededDropout(0.5, 1)(x, training=True)


def test_one_and_two_replicas_draw_the_same():
    """Four examples as one batch of four, and as two of two, through the real distribution."""
    layer = SeededDropout(0.5, 1)

    def masks(replicas):
        strategy = devices.make_strategy("none", replicas)
        numbers = tf.data.Dataset.range(40, 44).batch(4, drop_remainder=True)

        def replica(batch):
            with layers.dropout_numbers(batch):
                return layer(tf.ones([len(batch), *SHAPE]), training=True)

        @tf.function
        def step(batch):
            return strategy.run(replica, args=(batch,))

        batch = next(iter(strategy.experimental_distribute_dataset(numbers)))
        return tf.concat(strategy.experimental_local_results(step(batch)), 0).numpy()

    np.testing.assert_array_equal(masks(1), masks(2))
    np.testing.assert_array_equal(masks(2), drop(layer, [40, 41, 42, 43]))
