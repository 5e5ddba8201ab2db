"""The networks by name, each as what is trained and what is exported."""

from dataclasses import dataclass

import tensorflow as tf

from brats_tfrecord.training.network.unet import UNet
from brats_tfrecord.training.network.unet_nn import UNetNN

_KINDS = {"unet": UNet, "unet_nn": UNetNN}


@dataclass(frozen=True)
class Network:
    """A network as training and export hold it.

    Attributes:
        model: image float32 [B, X, Y, Z, C] -> probabilities float32 [B, X, Y, Z, K]; what is
            exported.
        trainer: image -> tuple of logits, float32 [B, X / n, Y / n, Z / n, K] for n = 1 and,
            with deep supervision, 2, 4, …: every level of the decoder but the deepest. Holds all
            of `model`'s weights, and those of the coarser heads.
        stride: what every spatial extent of the image must be a multiple of.
    """

    model: tf.keras.Model
    trainer: tf.keras.Model
    stride: int


def build_network(options, *, precision="float32", seed=None):
    """Builds a network for images of any extents that are multiples of its stride.

    Args:
        options: `network_options.NetworkOptions`. With the same seed they give the same weights
            in any precision.
        precision: Keras dtype policy of the layers; weights and heads are float32 in any.
        seed: makes initial weights and dropout a function of it; None draws them at random.

    Returns:
        `Network`.
    """
    kind = _KINDS[options.name](precision, seed)
    image = tf.keras.Input((None, None, None, options.channels), name="image")
    levels = kind.levels(image, options.filters, options.dropout)
    logits = [kind.head(levels[0], options.outputs)]
    if options.deep_supervision:
        logits += [
            kind.head(level, options.outputs, f"logits{number}")
            for number, level in enumerate(levels[1:-1], start=2)
        ]
    probabilities = _activation(options.activation)(logits[0])
    # A tuple: Keras would make of a list of one tensor that tensor.
    return Network(
        model=tf.keras.Model(image, probabilities, name=options.name),
        trainer=tf.keras.Model(image, tuple(logits), name=f"{options.name}_trainer"),
        stride=options.stride,
    )


def _activation(name):
    if name == "softmax":
        return tf.keras.layers.Softmax(dtype="float32", name="probabilities")
    return tf.keras.layers.Activation(name, dtype="float32", name="probabilities")
