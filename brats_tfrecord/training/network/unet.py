"""The documented 3-D U-Net in one call."""

from collections.abc import Sequence

import tensorflow as tf

from brats_tfrecord.training.network.network_options import NETWORKS, NetworkOptions
from brats_tfrecord.training.network.networks import build_network

_DEFAULTS = NETWORKS["unet"]


def build_unet(
    input_shape: tuple[int | None, int | None, int | None, int] = (144, 144, 144, 3),
    classes: int = 4,
    filters: Sequence[int] = _DEFAULTS.filters,
    dropout: Sequence[float] = _DEFAULTS.rates(_DEFAULTS.filters),
    *,
    precision: str = "float32",
    seed: int | None = None,
) -> tf.keras.Model:
    """Builds the documented U-Net: 5,645,828 parameters with the default arguments.

    Each block has two 3x3x3 ReLU convolutions with dropout between them; 2x2x2 max pooling leads
    down, 2x2x2 transposed convolutions of stride 2 lead up, skips are concatenated, and a 1x1x1
    convolution with softmax ends the network (after Ronneberger et al. 2015 and Çiçek et al.
    2016).

    Args:
        input_shape: (X, Y, Z, C); X, Y, Z are multiples of `2 ** (len(filters) - 1)`, or None.
        classes: number of output channels.
        filters: channels of each level, finest first, at least two levels.
        dropout: one rate per block, `2 * len(filters) - 1` in all.
        precision: Keras dtype policy of the layers. The global policy is neither read nor set.
        seed: makes initial weights and dropout a function of it; None draws them at random.

    Returns:
        A functional model, float32 [B, X, Y, Z, C] -> float32 [B, X, Y, Z, classes], whose last
        two layers, "logits" and "probabilities", are float32 under any policy.

    Raises:
        ValueError: an extent that is not a multiple of the stride, or a wrong number of rates.
    """
    extents, channels = input_shape[:3], input_shape[-1]
    options = NetworkOptions("unet", channels, classes, "softmax", tuple(filters), tuple(dropout))
    if len(input_shape) != 4 or any(n is not None and n % options.stride for n in extents):
        raise ValueError(
            f"input_shape={tuple(input_shape)}: expected (X, Y, Z, C) with X, Y, Z multiples of "
            f"{options.stride} or None"
        )
    return build_network(options, precision=precision, seed=seed, extents=extents).model
