"""What the channels of a network's output mean, the same in training and in serving."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from brats_tfrecord import spec

NAMES = ("classes", "regions")


@dataclass(frozen=True)
class Targets:
    """The K output channels of a network; `make_targets` makes it.

    Attributes:
        name: one of `NAMES`.
        channel_names: of the K channels.
        channel_classes: of each channel, the canonical classes whose voxels it is to find.
        activation: "softmax" where every voxel belongs to one channel, else "sigmoid".
    """

    name: str
    channel_names: tuple[str, ...]
    channel_classes: tuple[tuple[int, ...], ...]
    activation: str

    @property
    def channels(self):
        """K."""
        return len(self.channel_names)

    @property
    def background_fill(self):
        """K probabilities of a voxel that the network never saw: background for certain."""
        return tuple(float(classes == (spec.BACKGROUND,)) for classes in self.channel_classes)

    def truth(self, packed):
        """What the network should answer.

        Args:
            packed: uint8 [...], bit c set where the voxel is of class c.

        Returns:
            float32 [..., K] of 0 and 1; all 0 where no bit is set.
        """
        bits = [sum(1 << class_id for class_id in classes) for classes in self.channel_classes]
        # Looked up rather than worked out: a third less time, most of it spent on writing.
        table = (np.arange(256)[:, None] & bits) != 0
        return tf.gather(tf.constant(table, tf.float32), tf.cast(packed, tf.int32))

    def probabilities(self, logits):
        """Logits [..., K] of any float type to probabilities, float32 [..., K]."""
        activation = tf.nn.softmax if self.activation == "softmax" else tf.sigmoid
        return activation(tf.cast(logits, tf.float32))

    def classes(self, probabilities):
        """Canonical classes from probabilities, or from `truth`: [..., K] -> int32 [...].

        Softmax: the most probable class, of equals the first. Regions by the convention of
        nnU-Net (Isensee et al. 2021): each paints its class over those before it wherever it
        exceeds 0.5, so that a voxel in ET alone is enhancing tumour.
        """
        return self._painted(probabilities, 0.5)

    def classes_of_logits(self, logits):
        """`classes(probabilities(logits))` without the work in between."""
        return self._painted(logits, 0.0)

    def _painted(self, scores, threshold):
        if self.activation == "softmax":
            return _argmax(scores)
        classes = tf.constant(spec.BACKGROUND)
        for channel, class_id in enumerate(self._paints()):
            classes = tf.where(scores[..., channel] > threshold, class_id, classes)
        return classes

    def _paints(self):
        """The class of each region that no later one holds: ED of WT, NCR of TC, ET of ET."""
        for channel, classes in enumerate(self.channel_classes):
            [class_id] = set(classes).difference(*self.channel_classes[channel + 1 :])
            yield class_id


def make_targets(name, classes):
    """Makes the `Targets` called `name`.

    Args:
        name: "classes", a channel for each class, softmax; or "regions", the overlapping WT, TC
            and ET and every tumour class that is in none of them (RC), sigmoid.
        classes: number of classes of the label scheme, background included.

    Raises:
        ValueError: an unknown name.
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
    """`tf.argmax` over the few channels of [..., K], int32: on CPUs in a quarter of its time."""
    first, *others = tf.unstack(scores, axis=-1)
    best, place = first, tf.zeros_like(first, tf.int32)
    for number, score in enumerate(others, 1):
        # Numbers grow: the maximum is a choice, and faster than one.
        place = tf.maximum(place, number * tf.cast(score > best, tf.int32))
        best = tf.maximum(score, best)
    return place
