import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.training.network.layers import LeakyReLU


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16])
def test_values_and_gradients_below_at_and_above_zero(dtype):
    x = tf.constant([[-8.0, -1.0, 0.0, 1.0, 8.0]], dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = LeakyReLU(0.25)(x)
    gradient = tape.gradient(y, x, 2 * tf.ones_like(x))
    assert y.dtype == gradient.dtype == dtype
    np.testing.assert_array_equal(tf.cast(y, tf.float32), [[-2, -0.25, 0, 1, 8]])
    np.testing.assert_array_equal(tf.cast(gradient, tf.float32), [[0.5, 0.5, 0.5, 2, 2]])


def test_bfloat16_gradient_is_tensorflows():
    x = tf.cast(np.random.default_rng(0).normal(size=(1, 4, 5, 6, 3)), tf.bfloat16)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        ours, theirs = LeakyReLU(0.01)(x), tf.nn.leaky_relu(x, 0.01)
    np.testing.assert_allclose(
        tf.cast(tape.gradient(ours, x), tf.float32),
        tf.cast(tape.gradient(theirs, x), tf.float32),
        rtol=1e-2,
    )
