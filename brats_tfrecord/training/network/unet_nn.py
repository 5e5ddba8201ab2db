"""A U-Net with the habits of nnU-Net (Isensee et al. 2021, Nature Methods 18)."""

import tensorflow as tf

from brats_tfrecord.training.network.encoder_decoder import EncoderDecoder
from brats_tfrecord.training.network.layers import InstanceNorm, LeakyReLU

SLOPE = 0.01
"""Of the leaky ReLU below zero."""


class UNetNN(EncoderDecoder):
    """Blocks and ways of the network.

    A block is twice 3x3x3 convolution, instance norm and leaky ReLU; the first convolution of a
    level has stride 2. Kernels start as He et al. 2015 have it for this slope. Convolutions have
    no bias: the norm would take it out again.
    """

    def block(self, x, channels, rate, name, halve):
        x = self._conv(x, channels, f"{name}_conv1", strides=2 if halve else 1)
        x = self._active(x, f"{name}_norm1")
        x = self.dropout(x, rate, f"{name}_dropout")
        x = self._conv(x, channels, f"{name}_conv2", strides=1)
        return self._active(x, f"{name}_norm2")

    def up(self, x, channels, name):
        return tf.keras.layers.Conv3DTranspose(
            channels,
            2,
            strides=2,
            padding="same",
            use_bias=False,
            kernel_initializer=self._he_normal(),
            dtype=self.precision,
            name=name,
        )(x)

    def _conv(self, x, channels, name, strides):
        return tf.keras.layers.Conv3D(
            channels,
            3,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer=self._he_normal(),
            dtype=self.precision,
            name=name,
        )(x)

    def _active(self, x, name):
        x = InstanceNorm(name=name)(x)
        return LeakyReLU(SLOPE, name=f"{name}_relu")(x)

    def _he_normal(self):
        scale = 2 / (1 + SLOPE**2)
        return tf.keras.initializers.VarianceScaling(scale, "fan_in", seed=self.next_seed())
