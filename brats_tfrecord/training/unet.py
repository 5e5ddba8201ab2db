"""The documented 3-D U-Net (after Ronneberger et al. 2015 and Çiçek et al. 2016)."""

import tensorflow as tf

FILTERS = (16, 32, 64, 128, 256)
"""Channels of each level, finest first; the last level is the bottleneck."""

DROPOUT = (0.1, 0.1, 0.2, 0.2, 0.3, 0.2, 0.2, 0.1, 0.1)
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
    layer = _LayerFactory(precision, seed)
    depth = len(filters)
    names = [f"encoder{level}" for level in range(1, depth)]
    inputs = x = tf.keras.Input(input_shape, name="image")
    skips = []
    for name, channels, rate in zip(names, filters, dropout):
        skips.append(layer.block(x, channels, rate, name))
        x = layer.pool(skips[-1], f"{name}_pool")
    x = layer.block(x, filters[-1], dropout[depth - 1], "bottleneck")
    for level in reversed(range(1, depth)):
        name, channels = f"decoder{level}", filters[level - 1]
        x = layer.up(x, channels, f"{name}_up")
        x = layer.concatenate([x, skips[level - 1]], f"{name}_skip")
        x = layer.block(x, channels, dropout[2 * depth - 1 - level], name)
    # bfloat16 logits resolve 0.4 % and float16 softmax underflows: the head stays float32.
    logits = layer.head(x, classes)
    outputs = tf.keras.layers.Softmax(dtype="float32", name="probabilities")(logits)
    return tf.keras.Model(inputs, outputs, name="unet")


def stride(filters=FILTERS):
    """What every spatial extent of the input must be a multiple of: 2 per pooling."""
    return 2 ** (len(filters) - 1)


def logits_model(model):
    """The same network, sharing its weights, up to the logits: what losses are computed from."""
    return tf.keras.Model(model.inputs, model.get_layer("logits").output, name="unet_logits")


class _LayerFactory:
    """Makes the layers of one network, each with its own seed and the network's dtype policy."""

    def __init__(self, precision, seed):
        self._precision = precision
        self._seed = seed
        self._made = 0

    def block(self, x, channels, rate, name):
        x = self._conv(x, channels, f"{name}_conv1")
        x = tf.keras.layers.Dropout(
            rate, seed=self._next_seed(), dtype=self._precision, name=f"{name}_dropout"
        )(x)
        return self._conv(x, channels, f"{name}_conv2")

    def pool(self, x, name):
        # TensorFlow has no float16 kernel for it on CPUs; a maximum is exact in any type.
        dtype = "float32" if self._precision == "mixed_float16" else self._precision
        return tf.keras.layers.MaxPooling3D(2, dtype=dtype, name=name)(x)

    def up(self, x, channels, name):
        return tf.keras.layers.Conv3DTranspose(
            channels,
            2,
            strides=2,
            padding="same",
            kernel_initializer=tf.keras.initializers.GlorotUniform(self._next_seed()),
            dtype=self._precision,
            name=name,
        )(x)

    def concatenate(self, tensors, name):
        return tf.keras.layers.Concatenate(dtype=self._precision, name=name)(tensors)

    def head(self, x, classes):
        return tf.keras.layers.Conv3D(
            classes,
            1,
            kernel_initializer=tf.keras.initializers.GlorotUniform(self._next_seed()),
            dtype="float32",
            name="logits",
        )(x)

    def _conv(self, x, channels, name):
        return tf.keras.layers.Conv3D(
            channels,
            3,
            padding="same",
            activation="relu",
            kernel_initializer=tf.keras.initializers.HeNormal(self._next_seed()),
            dtype=self._precision,
            name=name,
        )(x)

    def _next_seed(self):
        """A seed of its own for every layer: equal seeds would give equal kernels."""
        self._made += 1
        return None if self._seed is None else (self._seed * 1009 + self._made) % 2**31


def _check(input_shape, filters, dropout):
    step = stride(filters)
    if len(filters) < 2:
        raise ValueError(f"filters={tuple(filters)}: expected at least two levels")
    if len(input_shape) != 4 or any(n is not None and n % step for n in input_shape[:3]):
        raise ValueError(
            f"input_shape={tuple(input_shape)}: expected (X, Y, Z, C) with X, Y, Z multiples of "
            f"{step} or None"
        )
    if len(dropout) != 2 * len(filters) - 1:
        raise ValueError(
            f"dropout={tuple(dropout)}: expected {2 * len(filters) - 1} rates, one for each block"
        )
