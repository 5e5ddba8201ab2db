"""Instance normalisation (Ulyanov et al. 2016), several times faster than Keras' on CPUs."""

import tensorflow as tf


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
            x=columns, scale=tf.tile(self.gamma, [batch]), offset=tf.tile(self.beta, [batch]),
            mean=[], variance=[], epsilon=self.epsilon, is_training=True).y
        columns = tf.reshape(columns, [voxels, batch, channels])
        y = tf.reshape(tf.transpose(columns, [1, 0, 2]), shape)
        y.set_shape(x.shape)
        return y
