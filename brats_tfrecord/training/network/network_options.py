"""What decides a network's architecture, and the defaults of each. Imports no TensorFlow."""

import dataclasses
from dataclasses import dataclass

ACTIVATIONS = ("softmax", "sigmoid")


@dataclass(frozen=True)
class NetworkDefaults:
    """What `auto` stands for in the options of a network.

    Attributes:
        help: one line for users.
        filters: channels of each level, finest first.
        dropout: rates of the two finest levels, of those below, and of the deepest.
        deep_supervision: whether coarser decoder levels are trained on too.
    """

    help: str
    filters: tuple[int, ...]
    dropout: tuple[float, float, float]
    deep_supervision: bool

    def rates(self, filters):
        """One dropout rate for each block, down, through the bottleneck and up again."""
        fine, coarse, deepest = self.dropout
        down = [fine if level < 2 else coarse for level in range(len(filters) - 1)]
        return (*down, deepest, *reversed(down))


NETWORKS = {
    "unet": NetworkDefaults(
        "the documented U-Net: ReLU, max pooling, dropout",
        (16, 32, 64, 128, 256),
        (0.1, 0.2, 0.3),
        False,
    ),
    "unet_nn": NetworkDefaults(
        "with nnU-Net's habits: instance norm, leaky ReLU, strided convolutions, deep supervision",
        (32, 64, 128, 256, 320, 320),
        (0.0, 0.0, 0.0),
        True,
    ),
}


@dataclass(frozen=True)
class NetworkOptions:
    """An architecture: with the weights, all that is needed to build the network again.

    Attributes:
        name: of `NETWORKS`.
        channels: of the image.
        outputs: channels of the probabilities.
        activation: "softmax" over the outputs, or "sigmoid" of each.
        filters: channels of each level, finest first, at least two levels.
        dropout: one rate in [0, 1) for each block, `2 * len(filters) - 1` of them.
        deep_supervision: whether the trainer has logits for coarser decoder levels too.

    Raises:
        ValueError: at construction, naming what is wrong.
    """

    name: str
    channels: int
    outputs: int
    activation: str
    filters: tuple[int, ...]
    dropout: tuple[float, ...]
    deep_supervision: bool

    def __post_init__(self):
        _check(self.name in NETWORKS, "name", self.name, "|".join(NETWORKS))
        _check(self.activation in ACTIVATIONS, "activation", self.activation, "|".join(ACTIVATIONS))
        check_levels(self.filters, self.dropout)

    @property
    def stride(self):
        """What every spatial extent of the image must be a multiple of."""
        return stride(self.filters)

    def to_json(self):
        """The options as a dict of JSON types; `from_json` gives back an equal object."""
        return {
            **dataclasses.asdict(self),
            "filters": list(self.filters),
            "dropout": list(self.dropout),
        }

    @classmethod
    def from_json(cls, value):
        """Options from `to_json`'s dict, or from what JSON makes of it."""
        return cls(
            **{**value, "filters": tuple(value["filters"]), "dropout": tuple(value["dropout"])}
        )


def stride(filters):
    """What every spatial extent must be a multiple of: 2 for each level but the finest."""
    return 2 ** (len(filters) - 1)


def check_levels(filters, dropout):
    """Raises ValueError for fewer than two levels, or `dropout` of another length."""
    blocks = 2 * len(filters) - 1
    _check(len(filters) >= 2, "filters", tuple(filters), "at least two levels")
    _check(len(dropout) == blocks, "dropout", tuple(dropout), f"{blocks} rates, one for each block")


def _check(good, name, value, expected):
    if not good:
        raise ValueError(f"{name}={value}: expected {expected}")
