"""The documented 3-D U-Net (after Ronneberger et al. 2015 and Çiçek et al. 2016)."""

import tensorflow as tf

from brats_tfrecord.training.network import layers, network_options
from brats_tfrecord.training.network.encoder_decoder import EncoderDecoder

_DEFAULTS = network_options.NETWORKS["unet"]

FILTERS = _DEFAULTS.filters
"""Channels of each level, finest first; the last level is the bottleneck."""

DROPOUT = _DEFAULTS.rates(FILTERS)
"""Dropout rate of each block, down the encoder, through the bottleneck, up the decoder."""


def build_unet(
    input_shape=(144, 144, 144, 3),
    classes=4,
    filters=FILTERS,
    dropout=DROPOUT,
    *,
    precision="float32",
    seed=None,
):
    """Builds the documented U-Net: 5,645,828 parameters with the default arguments.

    Two 3x3x3 ReLU convolutions a block with dropout between them, 2x2x2 max pooling down,
    2x2x2 transposed convolutions of stride 2 up, skips by concatenation, 1x1x1 softmax.

    Args:
        input_shape: (X, Y, Z, C); X, Y, Z are multiples of `stride(filters)`, or None.
        classes: channels of the output.
        filters: channels of each level, finest first, at least two levels.
        dropout: one rate for every block, `2 * len(filters) - 1` of them.
        precision: Keras dtype policy of the layers. The global policy is neither read nor set.
        seed: makes initial weights and dropout a function of it; None draws them at random.

    Returns:
        A functional model, float32 [B, X, Y, Z, C] -> float32 [B, X, Y, Z, classes], whose last
        two layers, "logits" and "probabilities", are float32 under any policy.

    Raises:
        ValueError: an extent no multiple of the stride, or `dropout` of another length.
    """
    _check(input_shape, filters, dropout)
    network = UNet(precision, seed)
    inputs = tf.keras.Input(input_shape, name="image")
    logits = network.head(network.levels(inputs, filters, dropout)[0], classes)
    outputs = tf.keras.layers.Softmax(dtype="float32", name="probabilities")(logits)
    return tf.keras.Model(inputs, outputs, name="unet")


def stride(filters=FILTERS):
    """What every spatial extent of the input must be a multiple of: 2 per pooling."""
    return network_options.stride(filters)


class UNet(EncoderDecoder):
    """Blocks and ways of the documented network."""

    def block(self, x, channels, rate, name, halve):
        if halve:
            x = self._pool(x, f"{name}_pool")
        x = self._conv(x, channels, f"{name}_conv1")
        x = self.dropout(x, rate, f"{name}_dropout")
        return self._conv(x, channels, f"{name}_conv2")

    def up(self, x, channels, name):
        return layers.Conv3DTranspose(
            channels,
            2,
            strides=2,
            padding="same",
            kernel_initializer=tf.keras.initializers.GlorotUniform(self.next_seed()),
            dtype=self.precision,
            name=name,
        )(x)

    def _pool(self, x, name):
        # TensorFlow has no float16 kernel for it on CPUs; a maximum is exact in any type.
        dtype = "float32" if self.precision == "mixed_float16" else self.precision
        return tf.keras.layers.MaxPooling3D(2, dtype=dtype, name=name)(x)

    def _conv(self, x, channels, name):
        return layers.Conv3D(
            channels,
            3,
            padding="same",
            activation="relu",
            kernel_initializer=tf.keras.initializers.HeNormal(self.next_seed()),
            dtype=self.precision,
            name=name,
        )(x)


def _check(input_shape, filters, dropout):
    network_options.check_levels(filters, dropout)
    step = stride(filters)
    if len(input_shape) != 4 or any(n is not None and n % step for n in input_shape[:3]):
        raise ValueError(
            f"input_shape={tuple(input_shape)}: expected (X, Y, Z, C) with X, Y, Z multiples of "
            f"{step} or None"
        )
