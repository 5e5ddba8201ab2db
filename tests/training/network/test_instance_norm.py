import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.training.network.layers import InstanceNorm


def values_and_gradients(layer, image, upstream):
    with tf.GradientTape() as tape:
        tape.watch(image)
        y = layer(image)
    return y, *tape.gradient(y, [image, *layer.trainable_variables], upstream)


@pytest.mark.parametrize("shape", [(1, 6, 5, 4, 3), (3, 2, 7, 4, 5)])
def test_computes_what_group_normalization_does(shape):
    rng = np.random.default_rng(0)
    image = tf.constant(rng.normal(2, 3, shape), tf.float32)
    upstream = tf.constant(rng.normal(size=shape), tf.float32)
    own, keras = InstanceNorm(), tf.keras.layers.GroupNormalization(groups=-1, epsilon=1e-5)
    for layer in (own, keras):
        layer.build(shape)
        layer.set_weights([np.linspace(0.5, 2, shape[-1]), np.linspace(-1, 1, shape[-1])])
    for ours, theirs in zip(
        values_and_gradients(own, image, upstream), values_and_gradients(keras, image, upstream)
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_each_example_and_channel_has_mean_0_and_deviation_1():
    image = np.random.default_rng(0).gamma(2, [3, 100], (2, 5, 6, 7, 2)) + [[[[[0, 1000]]]]]
    y = InstanceNorm()(image.astype(np.float32)).numpy()
    np.testing.assert_allclose(y.mean((1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(y.std((1, 2, 3)), 1, atol=1e-4)


def test_a_constant_channel_becomes_beta():
    layer = InstanceNorm()
    layer.build((None, None, None, None, 1))
    layer.set_weights([np.array([3.0]), np.array([0.25])])
    np.testing.assert_array_equal(layer(np.full((2, 3, 1, 2, 1), 7, np.float32)), 0.25)


@pytest.mark.parametrize("dtype, close", [(tf.bfloat16, 0.02), (tf.float16, 0.003)])
def test_half_precision_goes_in_and_out_and_statistics_are_float32(dtype, close):
    # 4096 values around 100: their sum is beyond float16, their spread below bfloat16's.
    image = np.random.default_rng(0).normal(100, 20, (1, 16, 16, 16, 1)).astype(np.float32)
    image = tf.cast(image, dtype)
    layer = InstanceNorm()
    y = layer(image)
    assert y.dtype == dtype and layer.gamma.dtype == tf.float32
    np.testing.assert_allclose(
        tf.cast(y, tf.float32), layer(tf.cast(image, tf.float32)), atol=close
    )


def test_a_replica_without_examples_passes():
    assert InstanceNorm()(tf.zeros([0, 4, 4, 2, 3])).shape == (0, 4, 4, 2, 3)
