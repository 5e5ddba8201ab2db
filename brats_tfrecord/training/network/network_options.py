"""The architecture of a network as plain data, and the defaults of each. Imports no TensorFlow."""

from collections.abc import Sequence
from dataclasses import dataclass

ACTIVATIONS = ("softmax", "sigmoid")
FIRST_STRIDES = (1, 2)


@dataclass(frozen=True)
class NetworkDefaults:
    """The values that `auto` stands for in the options of one network.

    Attributes:
        filters: channels of each level, finest first.
        dropout: rate of the two finest levels, of the levels below them, and of the bottleneck.
        deep_supervision: whether the coarser decoder levels are trained too.
        takes_statistics: whether layers take statistics over the image they are given, as instance
            norm does: the network then predicts in windows of its training patch (`pieces`).
    """

    filters: tuple[int, ...]
    dropout: tuple[float, float, float]
    deep_supervision: bool
    takes_statistics: bool

    def rates(self, filters: Sequence[int]) -> tuple[float, ...]:
        """Returns one dropout rate per block: encoder, bottleneck, decoder."""
        fine, coarse, bottleneck = self.dropout
        encoder = [fine if level < 2 else coarse for level in range(len(filters) - 1)]
        return (*encoder, bottleneck, *reversed(encoder))


NETWORKS = {
    "unet": NetworkDefaults((16, 32, 64, 128, 256), (0.1, 0.2, 0.3), False, False),
    "unet_nn": NetworkDefaults((32, 64, 128, 256, 320, 320), (0.0, 0.0, 0.0), True, True),
    "unet_res": NetworkDefaults((32, 64, 128, 256, 320), (0.0, 0.0, 0.0), True, True),
}
"""Defaults by name of the network; the networks themselves are in `blocks.ARCHITECTURES`."""


@dataclass(frozen=True)
class NetworkOptions:
    """The architecture of a network. With its weights, all that is needed to build it again.

    Attributes:
        name: a key of `NETWORKS`.
        channels: number of image channels.
        outputs: number of output channels.
        activation: "softmax" over the outputs, or "sigmoid" of each output.
        filters: channels of each level, finest first; the last level is the bottleneck.
        dropout: one rate in [0, 1) per block, `2 * len(filters) - 1` in all: down the encoder,
            through the bottleneck, up the decoder.
        first_stride: 1, or 2 if the finest level has half the extents of the image. The last layer
            then brings its features back to the voxels of the image.
        coarse_outputs: number of coarser levels that the trainer has logits for too, at most
            `most_coarse_outputs`.

    Raises:
        ValueError: at construction, naming the option that is wrong.
    """

    name: str
    channels: int
    outputs: int
    activation: str
    filters: tuple[int, ...]
    dropout: tuple[float, ...]
    first_stride: int = 1
    coarse_outputs: int = 0

    def __post_init__(self):
        _check(self.name in NETWORKS, "name", self.name, "|".join(NETWORKS))
        _check(self.activation in ACTIVATIONS, "activation", self.activation, "|".join(ACTIVATIONS))
        _check(len(self.filters) >= 2, "filters", self.filters, "at least two levels")
        blocks = 2 * len(self.filters) - 1
        _check(
            len(self.dropout) == blocks, "dropout", self.dropout, f"{blocks} rates, one per block"
        )
        _check(self.first_stride in FIRST_STRIDES, "first_stride", self.first_stride, FIRST_STRIDES)
        most = most_coarse_outputs(self.filters, self.first_stride)
        is_valid = 0 <= self.coarse_outputs <= most
        _check(is_valid, "coarse_outputs", self.coarse_outputs, f"0 to {most}")

    @property
    def stride(self) -> int:
        """The number that every spatial extent of the image must be a multiple of."""
        return self.first_stride * 2 ** (len(self.filters) - 1)


def most_coarse_outputs(filters: Sequence[int], first_stride: int) -> int:
    """Returns how many levels below the image's resolution can have logits.

    The coarsest level of the decoder has none: it sees too little of the image's detail.
    """
    return max(0, len(filters) - 3 + (first_stride > 1))


def _check(valid, name, value, expected):
    if not valid:
        raise ValueError(f"{name}={value}: expected {expected}")
