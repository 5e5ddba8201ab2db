"""The meaning of the output channels of a network, shared by training and serving."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from brats_tfrecord import spec

NAMES = ("classes", "regions")


@dataclass(frozen=True)
class Targets:
    """The K output channels of a network, built by `make_targets`.

    Attributes:
        name: one of `NAMES`.
        channel_names: K names.
        channel_classes: K tuples of the canonical classes that the channel segments.
        activation: "softmax" if every voxel belongs to exactly one channel, else "sigmoid".
    """

    name: str
    channel_names: tuple[str, ...]
    channel_classes: tuple[tuple[int, ...], ...]
    activation: str

    @property
    def channels(self) -> int:
        """The number of channels K."""
        return len(self.channel_names)

    @property
    def background_fill(self) -> tuple[float, ...]:
        """K probabilities of a voxel outside the network input, which is background."""
        return tuple(float(classes == (spec.BACKGROUND,)) for classes in self.channel_classes)

    def truth(self, packed: tf.Tensor) -> tf.Tensor:
        """Converts a packed mask to the target of the network.

        Args:
            packed: uint8 [...], bit c set for voxels of class c.

        Returns:
            float32 [..., K] of 0 and 1; all 0 where no bit is set.
        """
        bits = [sum(1 << class_id for class_id in classes) for classes in self.channel_classes]
        # A look-up table takes a third less time than bit operations.
        table = (np.arange(256)[:, None] & bits) != 0
        return tf.gather(tf.constant(table, tf.float32), tf.cast(packed, tf.int32))

    def probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        """Converts logits [..., K] of any float type to probabilities, float32 [..., K]."""
        activation = tf.nn.softmax if self.activation == "softmax" else tf.sigmoid
        return activation(tf.cast(logits, tf.float32))

    def logits(self, probabilities: tf.Tensor) -> tf.Tensor:
        """Converts probabilities [..., K] to logits, float32 [..., K] whose probabilities they are.

        Probabilities are clipped to [1e-7, 1 - 1e-7], so that the logits are finite.
        """
        clipped = tf.clip_by_value(tf.cast(probabilities, tf.float32), 1e-7, 1 - 1e-7)
        logits = tf.math.log(clipped)
        return logits if self.activation == "softmax" else logits - tf.math.log1p(-clipped)

    def classes(self, probabilities: tf.Tensor) -> tf.Tensor:
        """Converts probabilities (or `truth`) float [..., K] to canonical classes, uint8 [...].

        Classes: the most probable class, the first one if several are equal. Regions follow the
        convention of nnU-Net (Isensee et al. 2021): where the probability of a region exceeds 0.5,
        its class replaces the classes of the regions before it, so that a voxel in ET alone is
        enhancing tumour.
        """
        return self._threshold(probabilities, 0.5)

    def classes_of_logits(self, logits: tf.Tensor) -> tf.Tensor:
        """Computes `classes(probabilities(logits))` without computing the probabilities."""
        return self._threshold(logits, 0.0)

    def _threshold(self, scores, threshold):
        # Computed in the floating type of the scores: GPUs have no int32 arithmetic, for which
        # TensorFlow copies whole volumes to the host and back, and on CPUs floats are the fastest.
        scores = tf.convert_to_tensor(scores)
        if self.activation == "softmax":
            return tf.cast(_argmax(scores), tf.uint8)
        classes = tf.constant(spec.BACKGROUND, scores.dtype)
        for channel, class_id in enumerate(self._region_classes()):
            class_id = tf.constant(class_id, scores.dtype)
            classes = tf.where(scores[..., channel] > threshold, class_id, classes)
        return tf.cast(classes, tf.uint8)

    def _region_classes(self) -> Iterator[int]:
        """The class of each region that no later region contains: ED, NCR, ET for WT, TC, ET."""
        for channel, classes in enumerate(self.channel_classes):
            [class_id] = set(classes).difference(*self.channel_classes[channel + 1 :])
            yield class_id


def make_targets(name: str, classes: int) -> Targets:
    """Builds the `Targets` of a network.

    Args:
        name: "classes" for one channel per class with softmax, or "regions" for the overlapping
            regions WT, TC, ET and every tumour class outside them (RC), with sigmoid.
        classes: number of classes of the label scheme, background included.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in NAMES:
        raise ValueError(f"targets {name!r}; expected one of {', '.join(NAMES)}")
    names = spec.CLASS_NAMES[:classes]
    if name == "classes":
        return Targets(name, names, tuple((c,) for c in range(classes)), "softmax")
    covered = {spec.BACKGROUND}.union(*spec.REGIONS.values())
    channels = spec.REGIONS | {names[c]: (c,) for c in range(classes) if c not in covered}
    return Targets(name, tuple(channels), tuple(channels.values()), "sigmoid")


def _argmax(scores):
    """Computes `tf.argmax` over the last axis, in the type of the scores; faster on CPUs."""
    best, *others = tf.unstack(scores, axis=-1)
    argmax = tf.zeros_like(best)
    for channel, score in enumerate(others, 1):
        # Channel numbers ascend, so that the maximum selects the later channel; faster than
        # `tf.where`.
        argmax = tf.maximum(argmax, channel * tf.cast(score > best, score.dtype))
        best = tf.maximum(score, best)
    return argmax
