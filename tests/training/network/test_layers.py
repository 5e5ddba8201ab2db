"""Every op and layer against its plain counterpart, values and gradients."""

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.network import layers
from brats_tfrecord.training.network.layers import InstanceNorm, LeakyReLU, SeededDropout


def normal(*shape, dtype=np.float32):
    return tf.cast(np.random.default_rng(0).normal(size=shape), dtype)


def values_and_gradients(function, *inputs):
    """The output of `function`, and the gradients of its weighted sum with unequal weights."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = tf.cast(function(*inputs), tf.float32)
        weights = tf.reshape(tf.linspace(-1.0, 2.0, tf.size(outputs)), outputs.shape)
        total = tf.reduce_sum(weights * outputs)
    variables = getattr(function, "trainable_variables", [])
    return [outputs, *tape.gradient(total, [*inputs, *variables])]


def assert_close(actual, expected, tolerance=1e-6):
    """Compares tensor by tensor, relative to the largest expected value or 1."""
    for ours, plain in zip(actual, expected, strict=True):
        assert ours.dtype == plain.dtype
        plain = np.asarray(plain, np.float32)
        np.testing.assert_allclose(
            np.asarray(ours, np.float32), plain, atol=tolerance * max(1, np.abs(plain).max())
        )


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_add_bias_equals_bias_add(dtype, tolerance, on_gpu):
    x, bias = normal(2, 3, 4, 5, 6, dtype=dtype), normal(6, dtype=dtype)

    def plain(x, bias):
        # In float32: TensorFlow's own gradient of a bfloat16 bias can be off by 5 %.
        return tf.nn.bias_add(tf.cast(x, tf.float32), tf.cast(bias, tf.float32))

    assert_close(
        values_and_gradients(lambda x, bias: layers.add_bias(x, bias, on_gpu), x, bias),
        values_and_gradients(plain, x, bias),
        tolerance,
    )


def test_bfloat16_sums_do_not_stop_at_256():
    assert layers.sum_by_channel(tf.ones([4096, 2], tf.bfloat16)).numpy().tolist() == [4096] * 2


@pytest.mark.parametrize("channels", [2, 4])
def test_log_softmax_equals_tensorflows(channels):
    logits = 30 * normal(2, 3, 4, 5, channels)
    assert_close(
        values_and_gradients(layers.log_softmax, logits),
        values_and_gradients(tf.nn.log_softmax, logits),
        1e-5,
    )


def test_log_softmax_of_large_logits_is_finite():
    log_probabilities = layers.log_softmax(tf.constant([[1e4, 0.0, -1e4]]))
    np.testing.assert_array_equal(log_probabilities, [[0, -1e4, -2e4]])


@pytest.mark.parametrize(
    "make_ours, make_plain, options",
    [
        (layers.Conv3D, tf.keras.layers.Conv3D, {"padding": "same", "activation": "relu"}),
        (
            layers.Conv3DTranspose,
            tf.keras.layers.Conv3DTranspose,
            {"strides": 2, "padding": "same"},
        ),
    ],
)
def test_convolutions_equal_keras(make_ours, make_plain, options):
    # The reference is exact, and the volume small: the rounding of long float32 sums differs from
    # processor to processor.
    ours, plain = make_ours(5, 2, **options), make_plain(5, 2, dtype="float64", **options)
    x = normal(2, 2, 3, 4, 3)
    for layer in (ours, plain):
        layer.build(x.shape)
        layer.set_weights([normal(*weight.shape) for weight in layer.get_weights()])
    expected = [tf.cast(value, tf.float32) for value in values_and_gradients(plain, x)]
    assert_close(values_and_gradients(ours, x), expected, tolerance=1e-5)


def test_transposed_convolutions_keep_open_extents_open():
    inputs = tf.keras.Input([None, None, None, 2])
    outputs = layers.Conv3DTranspose(3, 2, strides=2, padding="same")(inputs)
    assert outputs.shape.as_list() == [None, None, None, None, 3]


@pytest.mark.parametrize(
    "extent, strides, on_gpu, dtype",
    [(2, 1, False, "float32"), (4, 2, False, "float32"), (3, 1, False, "bfloat16")]
    + [(2, 1, True, "bfloat16")],
)
def test_kernels_over_two_voxels_learn_in_float32_on_cpus(extent, strides, on_gpu, dtype):
    layer = layers.Conv3D(
        5, 3, strides, "same", use_bias=False, on_gpu=on_gpu, dtype="mixed_bfloat16"
    )
    layer.build((1, *[extent] * 3, 4))

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            y = layer(x)
        assert y.dtype == tf.bfloat16
        return tape.gradient(y, layer.kernel)

    graph = gradient.get_concrete_function(tf.TensorSpec((1, *[extent] * 3, 4))).graph
    [op] = [op for op in graph.get_operations() if op.type == "Conv3DBackpropFilterV2"]
    assert op.inputs[0].dtype == dtype


class TestInstanceNorm:
    @pytest.mark.parametrize("shape", [(1, 6, 5, 4, 3), (3, 2, 7, 4, 5)])
    def test_equals_group_normalization(self, shape):
        ours, plain = InstanceNorm(), tf.keras.layers.GroupNormalization(groups=-1, epsilon=1e-5)
        for layer in (ours, plain):
            layer.build(shape)
            layer.set_weights([np.linspace(0.5, 2, shape[-1]), np.linspace(-1, 1, shape[-1])])
        image = 2 + 3 * normal(*shape)
        for actual, expected in zip(
            values_and_gradients(ours, image), values_and_gradients(plain, image), strict=True
        ):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)

    def test_each_example_and_channel_has_mean_0_and_deviation_1(self):
        image = np.random.default_rng(0).gamma(2, [3, 100], (2, 5, 6, 7, 2)) + [[[[[0, 1000]]]]]
        y = InstanceNorm()(image.astype(np.float32)).numpy()
        np.testing.assert_allclose(y.mean((1, 2, 3)), 0, atol=1e-4)
        np.testing.assert_allclose(y.std((1, 2, 3)), 1, atol=1e-4)

    def test_a_constant_channel_becomes_beta(self):
        layer = InstanceNorm()
        layer.build((None, None, None, None, 1))
        layer.set_weights([np.array([3.0]), np.array([0.25])])
        np.testing.assert_array_equal(layer(np.full((2, 3, 1, 2, 1), 7, np.float32)), 0.25)

    def test_a_constant_channel_passes_no_gradient_on(self):
        layer = InstanceNorm()
        x = tf.stack([normal(1, 4, 4, 4), tf.fill([1, 4, 4, 4], 7.3)], axis=-1)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(layer(x) * normal(1, 4, 4, 4, 2))
        dx, dgamma, dbeta = tape.gradient(y, [x, layer.gamma, layer.beta])
        assert np.abs(dx[..., 0]).max() > 0 and not np.any(dx[..., 1])
        assert np.all(dbeta != 0) and np.isfinite(dgamma).all()

    @pytest.mark.parametrize("dtype, tolerance", [(tf.bfloat16, 0.02), (tf.float16, 0.003)])
    def test_half_precision_has_float32_statistics(self, dtype, tolerance):
        # 4096 values around 100: their sum exceeds float16, their spread is below bfloat16's
        # resolution of it.
        image = tf.cast(100 + 20 * normal(1, 16, 16, 16, 1), dtype)
        layer = InstanceNorm()
        y = layer(image)
        assert y.dtype == dtype and layer.gamma.dtype == tf.float32
        expected = layer(tf.cast(image, tf.float32))
        np.testing.assert_allclose(tf.cast(y, tf.float32), expected, atol=tolerance)

    def test_accepts_a_replica_without_examples(self):
        assert InstanceNorm()(tf.zeros([0, 4, 4, 2, 3])).shape == (0, 4, 4, 2, 3)


class TestLeakyReLU:
    @pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16])
    def test_values_and_gradients_below_at_and_above_zero(self, dtype):
        x = tf.constant([[-8.0, -1.0, 0.0, 1.0, 8.0]], dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = LeakyReLU(0.25)(x)
        gradient = tape.gradient(y, x, 2 * tf.ones_like(x))
        assert y.dtype == gradient.dtype == dtype
        np.testing.assert_array_equal(tf.cast(y, tf.float32), [[-2, -0.25, 0, 1, 8]])
        np.testing.assert_array_equal(tf.cast(gradient, tf.float32), [[0.5, 0.5, 0.5, 2, 2]])

    @pytest.mark.parametrize("on_gpu", [False, True])
    def test_bfloat16_gradient_equals_tensorflows(self, on_gpu):
        x = normal(1, 4, 5, 6, 3, dtype=tf.bfloat16)
        for actual, expected in zip(
            values_and_gradients(LeakyReLU(0.01, on_gpu), x),
            values_and_gradients(lambda x: tf.nn.leaky_relu(x, 0.01), x),
            strict=True,
        ):
            np.testing.assert_allclose(
                tf.cast(actual, tf.float32), tf.cast(expected, tf.float32), rtol=1e-2
            )


class TestSeededDropout:
    SHAPE = (5, 4, 3, 2)

    def drop(self, layer, numbers, shape=SHAPE, dtype=tf.float32):
        """The training output for examples of ones."""
        with layers.dropout_numbers(tf.constant(numbers, tf.int64)):
            return layer(tf.ones([len(numbers), *shape], dtype), training=True)

    def test_kept_values_are_scaled_up(self):
        dropped = self.drop(SeededDropout(0.2, 1), [0, 1], (32, 16, 8, 4)).numpy()
        assert set(np.unique(dropped)) == {0, 1.25}
        np.testing.assert_allclose((dropped > 0).mean((1, 2, 3, 4)), 0.8, atol=0.01)
        np.testing.assert_allclose((dropped > 0).mean((0, 1)), 0.8, atol=0.25)

    def test_a_mask_is_a_function_of_example_and_layer(self):
        layer = SeededDropout(0.5, 1)
        both = self.drop(layer, [7, 2**40]).numpy()
        apart = tf.concat([self.drop(layer, [7]), self.drop(layer, [2**40])], 0)
        np.testing.assert_array_equal(both, apart)
        assert (both[0] != both[1]).mean() > 0.3
        assert (both != self.drop(SeededDropout(0.5, 2), [7, 2**40]).numpy()).mean() > 0.3

    @pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
    def test_masks_are_the_same_in_any_precision(self, dtype):
        layer = SeededDropout(0.3, 1)
        half = self.drop(layer, [3], dtype=dtype)
        assert half.dtype == dtype
        np.testing.assert_array_equal(half > 0, self.drop(layer, [3]) > 0)

    def test_gradients_pass_through_kept_values(self):
        layer, x = SeededDropout(0.5, 1), tf.ones([1, *self.SHAPE])
        with tf.GradientTape() as tape, layers.dropout_numbers(tf.constant([4], tf.int64)):
            tape.watch(x)
            y = layer(x, training=True)
        np.testing.assert_array_equal(tape.gradient(y, x), y)

    def test_inference_and_rate_0_change_nothing_and_need_no_numbers(self):
        x = tf.ones([1, *self.SHAPE])
        np.testing.assert_array_equal(SeededDropout(0.5, 1)(x), x)
        np.testing.assert_array_equal(SeededDropout(0.0, 1)(x, training=True), x)

    def test_training_without_numbers_is_refused(self):
        x = tf.ones([2, *self.SHAPE])
        with pytest.raises(ValueError, match="layers.dropout_numbers"):
            SeededDropout(0.5, 1)(x, training=True)

    def test_fewer_numbers_than_examples_are_refused(self):
        x = tf.ones([2, *self.SHAPE])
        with pytest.raises(tf.errors.InvalidArgumentError, match="reshape"):
            with layers.dropout_numbers(tf.constant([1], tf.int64)):
                SeededDropout(0.5, 1)(x, training=True)

    def test_one_and_two_replicas_draw_the_same(self):
        """Four examples as one batch of four and as two of two, distributed by the strategy."""
        layer = SeededDropout(0.5, 1)

        def masks(replicas):
            strategy = devices.make_strategy("none", replicas)
            numbers = tf.data.Dataset.range(40, 44).batch(4, drop_remainder=True)

            def replica(batch):
                with layers.dropout_numbers(batch):
                    return layer(tf.ones([len(batch), *self.SHAPE]), training=True)

            @tf.function
            def step(batch):
                return strategy.run(replica, args=(batch,))

            batch = next(iter(strategy.experimental_distribute_dataset(numbers)))
            return tf.concat(strategy.experimental_local_results(step(batch)), 0).numpy()

        np.testing.assert_array_equal(masks(1), masks(2))
        np.testing.assert_array_equal(masks(2), self.drop(layer, [40, 41, 42, 43]))
