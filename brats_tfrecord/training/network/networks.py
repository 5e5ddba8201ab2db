"""Builds a network from its options: an encoder and a decoder with skips, and heads."""

from dataclasses import dataclass

import tensorflow as tf

from brats_tfrecord.training.network import layers
from brats_tfrecord.training.network.blocks import ARCHITECTURES, LayerPolicy
from brats_tfrecord.training.network.network_options import NetworkOptions


@dataclass(frozen=True)
class Network:
    """Two Keras models that share their weights: one to export and one to train.

    Attributes:
        model: image float32 [B, X, Y, Z, C] -> probabilities float32 [B, X, Y, Z, K]; exported.
        trainer: image -> tuple of logits, float32 [B, X / n, Y / n, Z / n, K] for n = 1 and, with
            deep supervision, n = 2, 4, …, `NetworkOptions.coarse_outputs` of them. Holds all
            weights of `model`, and those of the coarser heads.
        stride: the number that every spatial extent of the image must be a multiple of.
    """

    model: tf.keras.Model
    trainer: tf.keras.Model
    stride: int


def build_network(
    options: NetworkOptions,
    *,
    precision: str = "float32",
    seed: int | None = None,
    on_gpu: bool = False,
    extents: tuple[int | None, int | None, int | None] = (None, None, None),
) -> Network:
    """Builds a network with random weights.

    Args:
        options: the architecture. Equal options and seeds give equal weights in any precision.
        precision: Keras dtype policy of the layers; weights and heads are always float32.
        seed: makes initial weights and dropout a function of it; None draws them at random.
        on_gpu: whether the network trains on GPUs. Chooses ops that are fast there; weights and
            results are the same up to rounding.
        extents: (X, Y, Z) of the images; None accepts any multiple of the stride.

    Returns:
        The network.
    """
    policy = LayerPolicy(precision, seed, on_gpu)
    image = tf.keras.Input((*extents, options.channels), name="image")
    decoded = _decoder_levels(image, options, policy)
    # Above a first stride, the finest level of the decoder is the first coarse one.
    finest, *coarser = [decoded[0], *decoded] if options.first_stride > 1 else decoded
    logits = [_head(finest, options.outputs, options.first_stride, "logits", policy)]
    logits += [
        _head(x, options.outputs, 1, f"logits{level}", policy)
        for level, x in enumerate(coarser[: options.coarse_outputs], start=2)
    ]
    probabilities = _activation(options.activation)(logits[0])
    # A tuple, because Keras reduces a list of one tensor to that tensor.
    return Network(
        model=tf.keras.Model(image, probabilities, name=options.name),
        trainer=tf.keras.Model(image, tuple(logits), name=f"{options.name}_trainer"),
        stride=options.stride,
    )


def _decoder_levels(image, options, policy):
    """Feature maps of the decoder, finest first (Ronneberger et al. 2015, Çiçek et al. 2016)."""
    encode, up, decode = ARCHITECTURES[options.name]
    filters, dropout = options.filters, options.dropout
    depth, skips = len(filters), []
    decoded: list[tf.Tensor] = []
    x = _first_level(image, options, policy)
    for level in range(1, depth):
        x = encode(x, filters[level - 1], dropout[level - 1], f"encoder{level}", level > 1, policy)
        skips.append(x)
    x = encode(x, filters[-1], dropout[depth - 1], "bottleneck", True, policy)
    for level in reversed(range(1, depth)):
        name, channels = f"decoder{level}", filters[level - 1]
        x = up(x, channels, f"{name}_up", policy)
        x = tf.keras.layers.Concatenate(dtype=policy.precision, name=f"{name}_skip")(
            [x, skips[level - 1]]
        )
        x = decode(x, channels, dropout[2 * depth - 1 - level], name, policy)
        decoded.insert(0, x)
    return decoded


def _first_level(image, options, policy):
    """The input of the finest level: the image, or with a first stride each 2x2x2 block as a voxel.

    The convolution of the blocks is linear; the level's own layers follow. It keeps all information
    if it has 8 filters or more for each channel of the image.
    """
    if options.first_stride == 1:
        return image
    return layers.Conv3D(
        options.filters[0],
        options.first_stride,
        strides=options.first_stride,
        kernel_initializer=tf.keras.initializers.GlorotUniform(policy.next_seed()),
        on_gpu=policy.on_gpu,
        dtype=policy.precision,
        name="first_level",
    )(image)


def _head(x, outputs, stride, name, policy):
    """Logits of a level: a convolution of single voxels, float32 under any policy.

    With a stride above 1, a voxel of the level has a kernel of its own for each voxel of its block
    in the image (Shi et al. 2016).

    bfloat16 logits have a relative resolution of 0.4 %, and a float16 softmax underflows.
    """
    convolution = layers.Conv3DTranspose if stride > 1 else layers.Conv3D
    return convolution(
        outputs,
        stride,
        strides=stride,
        padding="same",
        kernel_initializer=tf.keras.initializers.GlorotUniform(policy.next_seed()),
        on_gpu=policy.on_gpu,
        dtype="float32",
        name=name,
    )(x)


def _activation(name):
    if name == "softmax":
        return tf.keras.layers.Softmax(dtype="float32", name="probabilities")
    return tf.keras.layers.Activation(name, dtype="float32", name="probabilities")
