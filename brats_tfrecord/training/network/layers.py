"""Layers and ops of the networks: faster than TensorFlow's own on CPUs, or exactly repeatable.

Each computes the same as the TensorFlow or Keras counterpart that its docstring names, up to
rounding, on any device. What only CPUs need is replaced by the counterpart with `on_gpu`. Ratios
compare the time of a whole bfloat16 training step with the counterpart to that with the op here, at
64x64x64 voxels on two CPU cores.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

UNSAFE = 2
"""Extent up to which `Conv3D` does not use bfloat16."""

CONSTANT = 1e-3
"""A channel counts as constant if its variance is at most this share of the norm's epsilon: more
than 0, because the mean of equal numbers is rounded."""

_dropout_numbers: contextvars.ContextVar[tf.Tensor | None] = contextvars.ContextVar(
    "dropout_numbers", default=None
)


def add_bias(x: tf.Tensor, bias: tf.Tensor, on_gpu: bool = False) -> tf.Tensor:
    """Adds a bias [C] to [..., C] as `tf.nn.bias_add`, with a more precise gradient in bfloat16.

    The gradient of the bias is a matrix product with ones, which sums bfloat16 in float32;
    TensorFlow's BiasAddGrad can be off by 5 % and is not faster (ratio 1.01 in unet). In float32
    both are equally precise. On GPUs, BiasAddGrad sums within a thread block in float32 and adds
    the hundreds of blocks in the dtype of `x`. That suits float32 and float16, but not the 8 bits
    of bfloat16.
    """
    if on_gpu and x.dtype != tf.bfloat16:
        return tf.nn.bias_add(x, bias)

    @tf.custom_gradient
    def add(x, bias):
        return tf.nn.bias_add(x, bias), lambda upstream: (upstream, sum_by_channel(upstream))

    # Custom gradients take no variables; converting one also casts it to the layer's dtype.
    return add(x, tf.convert_to_tensor(bias))


def sum_by_channel(x: tf.Tensor) -> tf.Tensor:
    """Sums [..., C] over all axes but the last, in float32 whatever the dtype: [C]."""
    rows = tf.reshape(x, [-1, x.shape[-1]])
    return tf.matmul(tf.ones([1, tf.shape(rows)[0]], x.dtype), rows)[0]


@tf.custom_gradient
def log_softmax(logits: tf.Tensor) -> tf.Tensor:
    """Computes `tf.nn.log_softmax` over the few channels of float32 [..., K].

    Ratio 1.05 in unet_nn, 1.00 in unet.
    """

    def gradient(upstream):
        upstream = _channels_first(upstream)
        total = tf.reduce_sum(upstream, axis=0)
        return _channels_last(upstream - tf.exp(log_probabilities) * total, logits)

    # TensorFlow is slow at sums and maxima over a short last axis.
    scores = _channels_first(logits)
    scores -= tf.reduce_max(scores, axis=0)
    log_probabilities = scores - tf.math.log(tf.reduce_sum(tf.exp(scores), axis=0))
    return _channels_last(log_probabilities, logits), gradient


class Conv3D(tf.keras.layers.Conv3D):
    """Keras's Conv3D with the bias, if there is one, added by `add_bias`. Channels last.

    On CPUs, outputs of one or two voxels along an axis are computed in float32: for them, oneDNN's
    bfloat16 gradient of the kernel sometimes reads memory that was never written, and is NaN (in
    TensorFlow 2.15 in 2 of 60 steps with 320 channels; never from three voxels on).
    """

    def __init__(self, *args: Any, on_gpu: bool = False, **kwargs: Any):
        """Creates the layer; `on_gpu` as in `add_bias`, the rest as in Keras."""
        super().__init__(*args, **kwargs)
        self.on_gpu = on_gpu

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        outputs = self._convolve(inputs)
        if self.use_bias:
            outputs = add_bias(outputs, self.bias, self.on_gpu)
        return self.activation(outputs)

    def _convolve(self, inputs):
        extents = self.compute_output_shape(inputs.shape)[1:4]
        smallest = min((extent for extent in extents if extent), default=None)
        if self.on_gpu or inputs.dtype != tf.bfloat16 or smallest is None or smallest > UNSAFE:
            return self.convolution_op(inputs, self.kernel)
        inputs, kernel = tf.cast(inputs, tf.float32), tf.cast(self.kernel, tf.float32)
        return tf.cast(self.convolution_op(inputs, kernel), tf.bfloat16)


class Conv3DTranspose(tf.keras.layers.Conv3DTranspose):
    """Keras's Conv3DTranspose with the bias added by `add_bias`.

    Channels last, padding "same", with a bias.
    """

    def __init__(self, *args: Any, on_gpu: bool = False, **kwargs: Any):
        """Creates the layer; `on_gpu` as in `add_bias`, the rest as in Keras."""
        super().__init__(*args, **kwargs)
        self.on_gpu = on_gpu

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(inputs)
        extents = [extent * by for extent, by in zip(tf.unstack(shape[1:4]), self.strides)]
        outputs = tf.nn.conv3d_transpose(
            inputs, self.kernel, [shape[0], *extents, self.filters], self.strides, "SAME"
        )
        outputs.set_shape(self.compute_output_shape(inputs.shape))
        return self.activation(add_bias(outputs, self.bias, self.on_gpu))


class InstanceNorm(tf.keras.layers.Layer):
    """Normalises each channel of each example over its voxels, then scales and shifts it.

    Computes the same as `tf.keras.layers.GroupNormalization(groups=-1)`, ratio 1.24.
    [B, X, Y, Z, C] of any float dtype -> the same shape and dtype; statistics, `gamma` and `beta`
    are float32. A constant channel becomes `beta`, and its gradient with respect to the input is 0:
    a patch of background alone is constant in every layer, and the true gradient, times
    1 / sqrt(epsilon) = 316 in each, is infinite after sixteen of them.
    """

    def __init__(self, epsilon: float = 1e-5, **kwargs: Any):
        """Creates the layer; `epsilon` is added to the variance."""
        super().__init__(autocast=False, dtype="float32", **kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: tf.TensorShape) -> None:
        channels = input_shape[-1]
        self.gamma = self.add_weight(name="gamma", shape=(channels,), initializer="ones")
        self.beta = self.add_weight(name="beta", shape=(channels,), initializer="zeros")
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        # Batch normalisation of one example with B * C channels, because that kernel is optimised
        # on every device: cuDNN's, or a fusion of XLA's, takes half precision and sums in float32
        # without casts. NHWC, because with half precision Grappler would turn NCHW back to it by
        # two more transposes. With a single example, the transposes here copy nothing.
        shape, channels = tf.shape(x), x.shape[-1]
        batch = shape[0]
        voxels = tf.reduce_prod(shape[1:4])
        columns = tf.transpose(tf.reshape(x, [batch, voxels, channels]), [1, 0, 2])
        columns = tf.reshape(columns, [1, voxels, 1, batch * channels])
        columns = _batch_norm(
            columns, tf.tile(self.gamma, [batch]), tf.tile(self.beta, [batch]), self.epsilon
        )
        columns = tf.reshape(columns, [voxels, batch, channels])
        y = tf.reshape(tf.transpose(columns, [1, 0, 2]), shape)
        y.set_shape(x.shape)
        return y


def _batch_norm(columns, scale, offset, epsilon):
    """Normalises [1, V, 1, C] over V; constant channels pass no gradient on to `columns`."""

    @tf.custom_gradient
    def function(columns, scale, offset):
        result = tf.raw_ops.FusedBatchNormV3(
            x=columns,
            scale=scale,
            offset=offset,
            mean=[],
            variance=[],
            epsilon=epsilon,
            is_training=True,
        )

        def gradient(upstream):
            # The gradient of `columns`, and no other, is proportional to the scale.
            varies = result.batch_variance > CONSTANT * epsilon
            gradients = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream,
                x=columns,
                scale=scale * tf.cast(varies, scale.dtype),
                reserve_space_1=result.reserve_space_1,
                reserve_space_2=result.reserve_space_2,
                reserve_space_3=result.reserve_space_3,
                epsilon=epsilon,
                is_training=True,
            )
            return gradients.x_backprop, gradients.scale_backprop, gradients.offset_backprop

        return result.y, gradient

    return function(columns, scale, offset)


class LeakyReLU(tf.keras.layers.Layer):
    """Computes `tf.nn.leaky_relu` in any float dtype.

    TensorFlow's own bfloat16 gradient has a ratio of 1.33 in unet_nn.
    """

    def __init__(self, slope: float, on_gpu: bool = False, **kwargs: Any):
        """Creates the layer; `slope` applies to values below zero."""
        super().__init__(autocast=False, **kwargs)
        self.slope, self.on_gpu = slope, on_gpu

    def call(self, x: tf.Tensor) -> tf.Tensor:
        if x.dtype == tf.bfloat16 and not self.on_gpu:
            return _leaky_relu(x, self.slope)
        return tf.nn.leaky_relu(x, self.slope)


def _leaky_relu(x, slope):
    @tf.custom_gradient
    def function(x):
        def gradient(upstream):
            difference = tf.constant(1 - slope, x.dtype) * tf.cast(x > 0, x.dtype)
            return upstream * (difference + tf.constant(slope, x.dtype))

        return tf.nn.leaky_relu(x, slope), gradient

    return function(x)


@contextlib.contextmanager
def dropout_numbers(example_numbers: tf.Tensor) -> Iterator[None]:
    """Context in which networks called with `training=True` draw dropout for these examples.

    The network must be called in the context, in the thread that traces the replica.

    Args:
        example_numbers: int64 [B], B static: each example's number in the whole run.
    """
    token = _dropout_numbers.set(example_numbers)
    try:
        yield
    finally:
        _dropout_numbers.reset(token)


class SeededDropout(tf.keras.layers.Layer):
    """Sets a share of the values to zero in training and scales up the others.

    The mask of an example is a pure function of the layer's seed and the example's number, see
    `dropout_numbers`: it depends neither on the batch nor on the number of replicas, and a resumed
    run draws it again. The layer has no weights and no state, works in the dtype of its input, and
    returns the input itself in inference and at rate 0.

    Raises:
        ValueError: called with `training=True`, a rate above 0, and outside of `dropout_numbers`.
    """

    def __init__(self, rate: float, seed: int, **kwargs: Any):
        """Creates the layer.

        Args:
            rate: share of the values to drop, in [0, 1), rounded down to a multiple of 1 / 65536.
            seed: an int that no other layer of the network has.
            **kwargs: of `tf.keras.layers.Layer`.
        """
        super().__init__(autocast=False, **kwargs)
        self.rate = rate
        self.seed = seed

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or not self.rate:
            return x
        example_numbers = _dropout_numbers.get()
        if example_numbers is None:
            raise ValueError(
                f"{self.name}: dropout masks need the number of every example; call the network "
                "within layers.dropout_numbers(numbers of the batch's examples)"
            )
        keep = tf.cast(self._kept(example_numbers, tf.shape(x)), x.dtype)
        return x * (keep * tf.constant(1 / (1 - self.rate), x.dtype))

    def _kept(self, example_numbers, shape):
        """The values to keep: bool of `shape` [B, …]."""
        values = tf.reduce_prod(shape[1:])
        # Not tf.unstack, which GPUs lack for int64: the host would wait for the numbers.
        examples = range(example_numbers.shape[0])
        drawn = [self._draw(example_numbers[example], values) for example in examples]
        return tf.reshape(tf.stack(drawn), shape) >= int(self.rate * 2**16) - 2**15

    def _draw(self, number, values):
        """Uniform int16 [values], four from each random word; from floats, ratio 1.03 in unet."""
        # With the algorithm named, key and counter are derived on the device of the numbers;
        # TensorFlow's automatic choice derives them on the host.
        words = tf.random.stateless_uniform(
            [(values + 3) // 4], [self.seed, number], None, None, tf.uint64, alg="philox"
        )
        return tf.reshape(tf.bitcast(words, tf.int16), [-1])[:values]


def _channels_first(x):
    """Reshapes [..., K] to [K, N]."""
    return tf.transpose(tf.reshape(x, [-1, x.shape[-1]]))


def _channels_last(x, like):
    """Reshapes [K, N] to the shape of `like`, [..., K]."""
    return tf.reshape(tf.transpose(x), tf.shape(like))
