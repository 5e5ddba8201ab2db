"""What TensorFlow's own operations take too long for on a CPU, in terms that it is fast at.

Each gives what its plain counterpart gives, up to rounding, on any device; times are of CPUs.
"""

import tensorflow as tf


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
            inputs, self.kernel, [shape[0], *extents, self.filters], self.strides, "SAME")
        outputs.set_shape(self.compute_output_shape(inputs.shape))
        return self.activation(add_bias(outputs, self.bias))


def _channels_first(x):
    """[..., K] to [K, N]."""
    return tf.transpose(tf.reshape(x, [-1, x.shape[-1]]))


def _channels_last(x, like):
    return tf.reshape(tf.transpose(x), tf.shape(like))
