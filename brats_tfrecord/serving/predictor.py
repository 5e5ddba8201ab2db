"""Networks as one function from preprocessed images to probabilities."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from brats_tfrecord import brain, pieces
from brats_tfrecord.serving.card import ModelCard

FLIPS = 8
"""Number of combinations in which three axes can be flipped, including none."""


class Predictor:
    """The probabilities of one or several networks as a function that is traced only once.

    Predicts in the pieces of the card, averages the networks, and averages over flips if the card
    says so. `predict` is the signature `serving_default` of the exported model; before the export,
    the same function segments the validation cases.

    Attributes:
        predict: TensorFlow function, `image` float32 [B, X, Y, Z, C] -> dict with
            `probabilities` float32 [B, X, Y, Z, K].
        weights: variables of each network.
    """

    def __init__(
        self, networks: tf.keras.Model | Sequence[tf.keras.Model], card: ModelCard
    ) -> None:
        """Wraps the networks; each is traced at its first call.

        Args:
            networks: float32 Keras models with spatial extents None, whose outputs are
                probabilities; one, or several to be averaged.
            card: its `modalities`, `brain_channel`, `channels`, `piece` and `flips` are used.

        Raises:
            ValueError: a network does not have the channels of the card.
        """
        if not isinstance(networks, (list, tuple)):
            networks = (networks,)
        _require_channels(networks, card)
        self.weights = [network.weights for network in networks]
        self._networks = [_traced(network) for network in networks]
        self._card = card
        self.predict = tf.function(
            lambda image: {"probabilities": self.probabilities(image)},
            autograph=False,
            input_signature=[
                tf.TensorSpec([None, None, None, None, len(card.modalities)], tf.float32, "image")
            ],
        )

    def probabilities(self, image: tf.Tensor) -> tf.Tensor:
        """Computes float32 [B, X, Y, Z, K] from float32 [B, X, Y, Z, C], eagerly or in a graph."""
        card, channels = self._card, self._card.channels.channels
        if card.brain_channel:
            # Of the whole image: a window of it need not have background in its corners.
            image = brain.append(image, brain.find(image))

        def predict(image):
            return pieces.predict(
                lambda piece: average(self._networks, piece), image, channels, card.piece
            )

        return average_over_flips(predict, image, channels) if card.flips else predict(image)


def average(networks: Sequence[Callable], image: tf.Tensor) -> tf.Tensor:
    """Computes the mean of several networks' probabilities, as BraTS winners average their folds.

    Args:
        networks: functions float32 [B, X, Y, Z, C] -> float32 [B, X, Y, Z, K].
        image: float32 [B, X, Y, Z, C].

    Returns:
        float32 [B, X, Y, Z, K].
    """
    first, *others = networks
    total = first(image)
    for network in others:
        # Sequentially: in parallel, the activations of all networks would be in memory at once.
        with tf.control_dependencies([total]):
            total += network(tf.identity(image))
    return total / len(networks)


def average_over_flips(predict: Callable, image: tf.Tensor, channels: int) -> tf.Tensor:
    """Computes the mean prediction over the eight flips of the spatial axes, each flipped back.

    Test-time augmentation as in nnU-Net (Isensee et al. 2021). Runs one flip after the other:
    takes eight times the time of one prediction and little more memory.

    Args:
        predict: function float32 [B, X, Y, Z, C] -> float32 [B, X, Y, Z, K].
        image: float32 [B, X, Y, Z, C].
        channels: K.

    Returns:
        float32 [B, X, Y, Z, K].
    """
    shape = tf.TensorShape([*image.shape[:4], channels])

    def add_flip(index, total):
        axes = 1 + tf.where(tf.bitwise.bitwise_and(index, [1, 2, 4]) > 0)[:, 0]
        flipped = tf.ensure_shape(tf.reverse(image, axes), image.shape)
        return index + 1, tf.ensure_shape(total + tf.reverse(predict(flipped), axes), shape)

    zeros = tf.zeros(tf.concat([tf.shape(image)[:4], [channels]], 0))
    _, total = tf.while_loop(
        lambda index, _: index < FLIPS,
        add_flip,
        (0, tf.ensure_shape(zeros, shape)),
        shape_invariants=(tf.TensorShape([]), shape),
        parallel_iterations=1,
    )
    return total / FLIPS


def _traced(network):
    """Returns the network as one function of the graph, shared by all its callers."""
    return tf.function(
        network,
        autograph=False,
        input_signature=[tf.TensorSpec(network.input_shape, tf.float32, "image")],
    )


def _require_channels(networks, card):
    expected = len(card.input_names), card.channels.channels
    for network in networks:
        channels = network.input_shape[-1], network.output_shape[-1]
        if channels != expected:
            raise ValueError(
                f"a network has {channels[0]} input and {channels[1]} output channels; the card "
                f"expects {expected[0]} and {expected[1]}"
            )
