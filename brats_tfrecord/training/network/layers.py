"""Layers and ops of the networks: faster than TensorFlow's own on CPUs, or exactly repeatable.

Each gives what its plain counterpart gives, up to rounding, on any device; times are of CPUs.
"""

import contextlib
import contextvars

import tensorflow as tf

_dropout_numbers = contextvars.ContextVar("dropout_numbers", default=None)


def add_bias(x, bias):
    """`tf.nn.bias_add`: [..., C] and [C]. Its gradient is a product with ones, not BiasAddGrad."""

    @tf.custom_gradient
    def add(x, bias):
        return tf.nn.bias_add(x, bias), lambda upstream: (upstream, sum_by_channel(upstream))

    # Of a variable, the tensor in the layer's type: custom gradients do not take variables.
    return add(x, tf.convert_to_tensor(bias))


def sum_by_channel(x):
    """[..., C] to [C]; sums are float32, whatever the type."""
    rows = tf.reshape(x, [-1, x.shape[-1]])
    return tf.matmul(tf.ones([1, tf.shape(rows)[0]], x.dtype), rows)[0]


@tf.custom_gradient
def log_softmax(logits):
    """`tf.nn.log_softmax` over the few channels of float32 [..., K]."""

    def gradient(upstream):
        upstream = _channels_first(upstream)
        total = tf.reduce_sum(upstream, axis=0)
        return _channels_last(upstream - tf.exp(log_probabilities) * total, logits)

    # Sums and maxima over the few innermost numbers are what TensorFlow is slow at.
    scores = _channels_first(logits)
    scores -= tf.reduce_max(scores, axis=0)
    log_probabilities = scores - tf.math.log(tf.reduce_sum(tf.exp(scores), axis=0))
    return _channels_last(log_probabilities, logits), gradient


class Conv3D(tf.keras.layers.Conv3D):
    """The same layer, its bias by `add_bias`. Channels last, with a bias."""

    def call(self, inputs):
        return self.activation(add_bias(self.convolution_op(inputs, self.kernel), self.bias))


class Conv3DTranspose(tf.keras.layers.Conv3DTranspose):
    """The same layer, its bias by `add_bias`. Channels last, padding "same", with a bias."""

    def call(self, inputs):
        shape = tf.shape(inputs)
        extents = [extent * by for extent, by in zip(tf.unstack(shape[1:4]), self.strides)]
        outputs = tf.nn.conv3d_transpose(
            inputs, self.kernel, [shape[0], *extents, self.filters], self.strides, "SAME"
        )
        outputs.set_shape(self.compute_output_shape(inputs.shape))
        return self.activation(add_bias(outputs, self.bias))


class InstanceNorm(tf.keras.layers.Layer):
    """Normalises each channel of each example over its voxels, then scales and shifts it.

    Computes what `GroupNormalization(groups=-1)` does. [B, X, Y, Z, C] of any float dtype ->
    the same shape and dtype; statistics, `gamma` and `beta` are float32. A channel that is the
    same everywhere becomes `beta`.
    """

    def __init__(self, epsilon=1e-5, **kwargs):
        """Takes what is added to the variance."""
        super().__init__(autocast=False, dtype="float32", **kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        channels = input_shape[-1]
        self.gamma = self.add_weight(name="gamma", shape=(channels,), initializer="ones")
        self.beta = self.add_weight(name="beta", shape=(channels,), initializer="zeros")
        super().build(input_shape)

    def call(self, x):
        # Batch normalisation of one example with B * C channels: its kernel is the one that is
        # made fast everywhere. Of a single example, transposing copies nothing.
        shape, channels = tf.shape(x), x.shape[-1]
        batch = shape[0]
        voxels = tf.reduce_prod(shape[1:4])
        columns = tf.transpose(tf.reshape(x, [batch, voxels, channels]), [1, 0, 2])
        columns = tf.reshape(columns, [1, voxels, 1, batch * channels])
        columns = tf.raw_ops.FusedBatchNormV3(
            x=columns,
            scale=tf.tile(self.gamma, [batch]),
            offset=tf.tile(self.beta, [batch]),
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        ).y
        columns = tf.reshape(columns, [voxels, batch, channels])
        y = tf.reshape(tf.transpose(columns, [1, 0, 2]), shape)
        y.set_shape(x.shape)
        return y


class LeakyReLU(tf.keras.layers.Layer):
    """`x` above zero, `slope * x` from there down; any float dtype, in and out."""

    def __init__(self, slope, **kwargs):
        """Takes the slope below zero."""
        super().__init__(autocast=False, **kwargs)
        self.slope = slope

    def call(self, x):
        if x.dtype == tf.bfloat16:
            return _leaky_relu(x, self.slope)
        return tf.nn.leaky_relu(x, self.slope)


def _leaky_relu(x, slope):
    # TensorFlow 2.15's own gradient takes the CPU four times as long, a third of unet_nn's step.
    @tf.custom_gradient
    def function(x):
        def gradient(upstream):
            rest = tf.constant(1 - slope, x.dtype) * tf.cast(x > 0, x.dtype)
            return upstream * (rest + tf.constant(slope, x.dtype))

        return tf.nn.leaky_relu(x, slope), gradient

    return function(x)


@contextlib.contextmanager
def dropout_numbers(of_batch):
    """Within it, networks called with `training=True` draw their dropout for these examples.

    It counts where the network is called, in the thread that traces the replica.

    Args:
        of_batch: int64 [B], B known when traced: each example's place in the whole run.
    """
    token = _dropout_numbers.set(of_batch)
    try:
        yield
    finally:
        _dropout_numbers.reset(token)


class SeededDropout(tf.keras.layers.Layer):
    """Sets a share of the values to zero in training and scales up the others.

    The mask of an example is a pure function of the layer's seed and the example's number, see
    `dropout_numbers`. The layer has no weights and no state, works in its input's dtype, and hands its
    input on in inference and at rate 0.

    Raises:
        ValueError: called with `training=True`, a rate above 0, and outside of `dropout_numbers`.
    """

    def __init__(self, rate, seed, **kwargs):
        """Takes the share of values to drop, in [0, 1), and an int that no other layer has."""
        super().__init__(autocast=False, **kwargs)
        self.rate = rate
        self.seed = seed

    def call(self, x, training=False):
        if not training or not self.rate:
            return x
        of_batch = _dropout_numbers.get()
        if of_batch is None:
            raise ValueError(
                f"{self.name}: its masks are drawn by example; call the network "
                "within layers.dropout_numbers(numbers of the batch's examples)"
            )
        keep = tf.cast(self._kept(of_batch, tf.shape(x)), x.dtype)
        return x * (keep * tf.constant(1 / (1 - self.rate), x.dtype))

    def _kept(self, of_batch, shape):
        """Which values stay: bool of `shape` [B, …]. Resolves rates to 1 / 65536."""
        values = tf.reduce_prod(shape[1:])
        drawn = [self._draw(number, values) for number in tf.unstack(of_batch)]
        return tf.reshape(tf.stack(drawn), shape) >= int(self.rate * 2**16) - 2**15

    def _draw(self, number, values):
        """Uniform int16 [values]."""
        # Four values from each random word, and no floats: a third of Keras' time in bfloat16.
        words = tf.random.stateless_uniform(
            [(values + 3) // 4], [self.seed, number], None, None, tf.uint64, alg="philox"
        )
        return tf.reshape(tf.bitcast(words, tf.int16), [-1])[:values]


def _channels_first(x):
    """[..., K] to [K, N]."""
    return tf.transpose(tf.reshape(x, [-1, x.shape[-1]]))


def _channels_last(x, like):
    return tf.reshape(tf.transpose(x), tf.shape(like))
