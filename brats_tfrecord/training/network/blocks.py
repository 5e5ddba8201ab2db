"""The blocks of each network. `networks.build_network` joins them to an encoder and a decoder.

To add a network, write its functions, register them in `ARCHITECTURES`, and give its defaults in
`network_options.NETWORKS`. The tests of `networks` then cover it.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from brats_tfrecord.training.network import layers

LEAKY_SLOPE = 0.01
"""Slope of the leaky ReLU of unet_nn and unet_res below zero."""

RESIDUAL_BLOCKS = 2
"""Residual blocks of each level of unet_res's encoder; the finest level, the most expensive, has
one."""


class LayerPolicy:
    """The dtype policy and the seeds of the layers of one network.

    Attributes:
        precision: Keras dtype policy. The global policy is neither read nor set.
        on_gpu: whether the layers run on GPUs. Chooses between ops that compute the same.
    """

    def __init__(self, precision: str = "float32", seed: int | None = None, on_gpu: bool = False):
        """Stores the policy, and the seed that initial weights and dropout are a function of."""
        self.precision, self.on_gpu = precision, on_gpu
        self._seed = seed
        self._seeds_used = 0

    def next_seed(self) -> int | None:
        """Returns another seed at every call; layers of equal seeds would have equal kernels."""
        self._seeds_used += 1
        return None if self._seed is None else (self._seed * 1009 + self._seeds_used) % 2**31


class Architecture(NamedTuple):
    """The functions that distinguish a network.

    Attributes:
        encode: function (x, channels, dropout rate, name, halve, policy) -> x, the convolutions of
            one level of the encoder; with `halve`, on half the extents of `x`.
        up: function (x, channels, name, policy) -> x at twice its extents.
        decode: function (x, channels, dropout rate, name, policy) -> x, the convolutions of one
            level of the decoder.
    """

    encode: Callable[[tf.Tensor, int, float, str, bool, LayerPolicy], tf.Tensor]
    up: Callable[[tf.Tensor, int, str, LayerPolicy], tf.Tensor]
    decode: Callable[[tf.Tensor, int, float, str, LayerPolicy], tf.Tensor]


def unet_block(
    x: tf.Tensor, channels: int, rate: float, name: str, halve: bool, policy: LayerPolicy
) -> tf.Tensor:
    """Applies two 3x3x3 ReLU convolutions with dropout between them, after 2x2x2 max pooling."""
    if halve:
        # TensorFlow has no float16 max pooling on CPUs; a maximum is exact in any type.
        lacks_kernel = policy.precision == "mixed_float16" and not policy.on_gpu
        dtype = "float32" if lacks_kernel else policy.precision
        x = tf.keras.layers.MaxPooling3D(2, dtype=dtype, name=f"{name}_pool")(x)
    x = _relu_conv(x, channels, f"{name}_conv1", policy)
    x = _dropout(x, rate, f"{name}_dropout", policy)
    return _relu_conv(x, channels, f"{name}_conv2", policy)


def unet_up(x: tf.Tensor, channels: int, name: str, policy: LayerPolicy) -> tf.Tensor:
    """Applies a 2x2x2 transposed convolution of stride 2."""
    return layers.Conv3DTranspose(
        channels,
        2,
        strides=2,
        padding="same",
        kernel_initializer=tf.keras.initializers.GlorotUniform(policy.next_seed()),
        on_gpu=policy.on_gpu,
        dtype=policy.precision,
        name=name,
    )(x)


def unet_nn_block(
    x: tf.Tensor, channels: int, rate: float, name: str, halve: bool, policy: LayerPolicy
) -> tf.Tensor:
    """Applies twice a 3x3x3 convolution, instance norm and leaky ReLU.

    The first convolution of a level has stride 2. Convolutions have no bias, because the norm
    would subtract it again. After nnU-Net (Isensee et al. 2021, Nature Methods 18).
    """
    x = _normalised_conv(x, channels, f"{name}_conv1", f"{name}_norm1", 2 if halve else 1, policy)
    x = _dropout(x, rate, f"{name}_dropout", policy)
    return _normalised_conv(x, channels, f"{name}_conv2", f"{name}_norm2", 1, policy)


def unet_nn_up(x: tf.Tensor, channels: int, name: str, policy: LayerPolicy) -> tf.Tensor:
    """Applies a 2x2x2 transposed convolution of stride 2 without bias."""
    return tf.keras.layers.Conv3DTranspose(
        channels,
        2,
        strides=2,
        padding="same",
        use_bias=False,
        kernel_initializer=_he_normal(policy),
        dtype=policy.precision,
        name=name,
    )(x)


def unet_res_encode(
    x: tf.Tensor, channels: int, rate: float, name: str, halve: bool, policy: LayerPolicy
) -> tf.Tensor:
    """Applies residual blocks, the first of stride 2 with `halve`; dropout is in the last one.

    A small relative of the residual encoder of nnU-Net (Isensee et al. 2024, MICCAI), whose blocks
    are those of He et al. 2016.
    """
    count = RESIDUAL_BLOCKS if halve else 1
    for number in range(1, count + 1):
        strides = 2 if halve and number == 1 else 1
        dropout = rate if number == count else None
        x = _residual_block(x, channels, dropout, f"{name}_block{number}", strides, policy)
    return x


def unet_res_decode(
    x: tf.Tensor, channels: int, rate: float, name: str, policy: LayerPolicy
) -> tf.Tensor:
    """Applies dropout, then one 3x3x3 convolution, instance norm and leaky ReLU.

    One convolution suffices where the encoder is strong (Isensee et al. 2024).
    """
    x = _dropout(x, rate, f"{name}_dropout", policy)
    return _normalised_conv(x, channels, f"{name}_conv1", f"{name}_norm1", 1, policy)


def _decoder_of(encode):
    """The convolutions of an encoder's level as those of the decoder."""

    def decode(x, channels, rate, name, policy):
        return encode(x, channels, rate, name, False, policy)

    return decode


ARCHITECTURES = {
    "unet": Architecture(unet_block, unet_up, _decoder_of(unet_block)),
    "unet_nn": Architecture(unet_nn_block, unet_nn_up, _decoder_of(unet_nn_block)),
    "unet_res": Architecture(unet_res_encode, unet_nn_up, unet_res_decode),
}


def _dropout(x, rate, name, policy):
    seed = policy.next_seed()
    seed = random.randrange(2**31) if seed is None else seed
    return layers.SeededDropout(rate, seed, name=name)(x)


def _relu_conv(x, channels, name, policy):
    return layers.Conv3D(
        channels,
        3,
        padding="same",
        activation="relu",
        kernel_initializer=tf.keras.initializers.HeNormal(policy.next_seed()),
        on_gpu=policy.on_gpu,
        dtype=policy.precision,
        name=name,
    )(x)


def _residual_block(x, channels, rate, name, strides, policy):
    """Adds the input to what two normalised convolutions make of it, then applies leaky ReLU.

    Where the extents or the channels change, a linear convolution of disjoint blocks fits the
    input. There is no dropout if the rate is None.
    """
    added = x
    if strides > 1 or x.shape[-1] != channels:
        added = _conv(x, channels, strides, f"{name}_skip", strides, policy)
    x = _normalised_conv(x, channels, f"{name}_conv1", f"{name}_norm1", strides, policy)
    if rate is not None:
        x = _dropout(x, rate, f"{name}_dropout", policy)
    x = _conv(x, channels, 3, f"{name}_conv2", 1, policy)
    x = layers.InstanceNorm(name=f"{name}_norm2")(x)
    x = tf.keras.layers.Add(dtype=policy.precision, name=f"{name}_sum")([x, added])
    return layers.LeakyReLU(LEAKY_SLOPE, policy.on_gpu, name=f"{name}_relu")(x)


def _normalised_conv(x, channels, name, norm_name, strides, policy):
    x = _conv(x, channels, 3, name, strides, policy)
    x = layers.InstanceNorm(name=norm_name)(x)
    return layers.LeakyReLU(LEAKY_SLOPE, policy.on_gpu, name=f"{norm_name}_relu")(x)


def _conv(x, channels, kernel, name, strides, policy):
    return layers.Conv3D(
        channels,
        kernel,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer=_he_normal(policy),
        on_gpu=policy.on_gpu,
        dtype=policy.precision,
        name=name,
    )(x)


def _he_normal(policy):
    """Kernels for the leaky ReLU (He et al. 2015)."""
    scale = 2 / (1 + LEAKY_SLOPE**2)
    return tf.keras.initializers.VarianceScaling(scale, "fan_in", seed=policy.next_seed())
