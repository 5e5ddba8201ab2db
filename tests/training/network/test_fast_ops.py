import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.training.network import layers


def values_and_gradients(function, *inputs):
    """What `function` gives, and the gradients of its sum with weights of their own."""
    inputs = [tf.constant(array) for array in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = tf.cast(function(*inputs), tf.float32)
        weights = tf.reshape(tf.linspace(-1.0, 2.0, tf.size(outputs)), outputs.shape)
        total = tf.reduce_sum(weights * outputs)
    return [outputs, *tape.gradient(total, inputs)]


def assert_same(found, expected, tolerance=1e-6):
    for ours, plain in zip(found, expected, strict=True):
        assert ours.dtype == plain.dtype
        plain = np.asarray(plain, np.float32)
        np.testing.assert_allclose(
            np.asarray(ours, np.float32), plain, atol=tolerance * max(1, np.abs(plain).max())
        )


def noise(*shape, dtype=np.float32):
    return tf.cast(np.random.default_rng(0).normal(size=shape), dtype)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_bias_and_its_gradient_are_the_plain_ones(dtype, tolerance):
    x, bias = noise(2, 3, 4, 5, 6, dtype=dtype), noise(6, dtype=dtype)

    def plain(x, bias):
        # In float32: TensorFlow's own gradient of a bias in bfloat16 may be off by 5 %.
        return tf.nn.bias_add(tf.cast(x, tf.float32), tf.cast(bias, tf.float32))

    assert_same(
        values_and_gradients(layers.add_bias, x, bias),
        values_and_gradients(plain, x, bias),
        tolerance,
    )


def test_bfloat16_sums_do_not_stop_at_256():
    assert layers.sum_by_channel(tf.ones([4096, 2], tf.bfloat16)).numpy().tolist() == [4096] * 2


@pytest.mark.parametrize("channels", [2, 4])
def test_log_softmax_and_its_gradient_are_the_plain_ones(channels):
    logits = 30 * noise(2, 3, 4, 5, channels)
    assert_same(
        values_and_gradients(layers.log_softmax, logits),
        values_and_gradients(tf.nn.log_softmax, logits),
        1e-5,
    )


def test_log_softmax_bears_large_logits():
    found = layers.log_softmax(tf.constant([[1e4, 0.0, -1e4]]))
    np.testing.assert_array_equal(found, [[0, -1e4, -2e4]])


@pytest.mark.parametrize(
    "ours, plain, options",
    [
        (layers.Conv3D, tf.keras.layers.Conv3D, {"padding": "same", "activation": "relu"}),
        (
            layers.Conv3DTranspose,
            tf.keras.layers.Conv3DTranspose,
            {"strides": 2, "padding": "same"},
        ),
    ],
)
def test_layers_are_the_plain_ones(ours, plain, options):
    layers = [make(5, 2, **options) for make in (ours, plain)]
    x = noise(2, 4, 6, 8, 3)
    for layer in layers:
        layer.build(x.shape)
    weights = [noise(*weight.shape) for weight in layers[0].get_weights()]
    found = []
    for layer in layers:
        layer.set_weights(weights)
        with tf.GradientTape() as tape:
            outputs = layer(x)
            total = tf.reduce_sum(outputs**2)
        found.append([outputs, *tape.gradient(total, layer.trainable_variables)])
    assert_same(*found, tolerance=1e-5)


def test_open_extents_stay_open():
    inputs = tf.keras.Input([None, None, None, 2])
    outputs = layers.Conv3DTranspose(3, 2, strides=2, padding="same")(inputs)
    assert outputs.shape.as_list() == [None, None, None, None, 3]
