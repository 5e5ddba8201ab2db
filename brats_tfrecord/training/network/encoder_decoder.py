"""What all networks share: an encoder, a decoder, skips between them, heads on the decoder."""

import random

import tensorflow as tf

from brats_tfrecord.training.network import layers
from brats_tfrecord.training.network.layers import SeededDropout


class EncoderDecoder:
    """Builds the levels of one network (after Ronneberger et al. 2015, Çiçek et al. 2016).

    A network is a subclass that says what a block and a way up are. Every layer has its own seed
    and the network's dtype policy; the global policy is neither read nor set.
    """

    def __init__(self, precision="float32", seed=None):
        """Takes a Keras dtype policy, and what makes weights and dropout a function of it."""
        self.precision = precision
        self._seed = seed
        self._made = 0

    def levels(self, x, filters, dropout):
        """Feature maps of the decoder.

        Args:
            x: image, symbolic [B, X, Y, Z, C].
            filters: channels of each level, finest first.
            dropout: one rate for each block, down, through the bottleneck and up.

        Returns:
            list of `len(filters) - 1` tensors, finest first; each halves the extents.
        """
        depth, skips, found = len(filters), [], []
        for level in range(1, depth):
            x = self.block(x, filters[level - 1], dropout[level - 1], f"encoder{level}", level > 1)
            skips.append(x)
        x = self.block(x, filters[-1], dropout[depth - 1], "bottleneck", True)
        for level in reversed(range(1, depth)):
            name, channels = f"decoder{level}", filters[level - 1]
            x = self.up(x, channels, f"{name}_up")
            x = tf.keras.layers.Concatenate(dtype=self.precision, name=f"{name}_skip")(
                [x, skips[level - 1]]
            )
            x = self.block(x, channels, dropout[2 * depth - 1 - level], name, False)
            found.insert(0, x)
        return found

    def head(self, x, outputs, name="logits"):
        """Logits of a level: a 1x1x1 convolution, float32 under any policy.

        bfloat16 logits resolve 0.4 %, and a float16 softmax underflows.
        """
        return layers.Conv3D(
            outputs,
            1,
            kernel_initializer=tf.keras.initializers.GlorotUniform(self.next_seed()),
            dtype="float32",
            name=name,
        )(x)

    def block(self, x, channels, rate, name, halve):
        """The convolutions of one level, on half of `x`'s extents if `halve`."""
        raise NotImplementedError

    def up(self, x, channels, name):
        """`x` at twice its extents."""
        raise NotImplementedError

    def dropout(self, x, rate, name):
        """`x` with a share `rate` of its values dropped in training."""
        seed = self.next_seed()
        seed = random.randrange(2**31) if seed is None else seed
        return SeededDropout(rate, seed, name=name)(x)

    def next_seed(self):
        """A seed of its own for every layer: equal seeds would give equal kernels."""
        self._made += 1
        return None if self._seed is None else (self._seed * 1009 + self._made) % 2**31
