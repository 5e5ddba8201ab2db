"""Dropout whose mask is a function of the example: the same after a restart, on any replica."""

import contextlib
import contextvars

import tensorflow as tf

_numbers = contextvars.ContextVar("numbers", default=None)


@contextlib.contextmanager
def numbers(of_batch):
    """Within it, networks called with `training=True` draw their dropout for these examples.

    It counts where the network is called, in the thread that traces the replica.

    Args:
        of_batch: int64 [B], B known when traced: each example's place in the whole run.
    """
    token = _numbers.set(of_batch)
    try:
        yield
    finally:
        _numbers.reset(token)


class SeededDropout(tf.keras.layers.Layer):
    """Sets a share of the values to zero in training and scales up the others.

    The mask of an example is a pure function of the layer's seed and the example's number, see
    `numbers`. The layer has no weights and no state, works in its input's dtype, and hands its
    input on in inference and at rate 0.

    Raises:
        ValueError: called with `training=True`, a rate above 0, and outside of `numbers`.
    """

    def __init__(self, rate, seed, **kwargs):
        """Takes the share of values to drop, in [0, 1), and an int that no other layer has."""
        super().__init__(autocast=False, **kwargs)
        self.rate = rate
        self.seed = seed

    def call(self, x, training=False):
        if not training or not self.rate:
            return x
        of_batch = _numbers.get()
        if of_batch is None:
            raise ValueError(f"{self.name}: its masks are drawn by example; call the network "
                             "within dropout.numbers(numbers of the batch's examples)")
        keep = tf.cast(self._kept(of_batch, tf.shape(x)), x.dtype)
        return x * (keep * tf.constant(1 / (1 - self.rate), x.dtype))

    def _kept(self, of_batch, shape):
        """Which values stay: bool of `shape` [B, …]. Resolves rates to 1 / 65536."""
        values = tf.reduce_prod(shape[1:])
        drawn = [self._draw(number, values) for number in tf.unstack(of_batch)]
        return tf.reshape(tf.stack(drawn), shape) >= int(self.rate * 2**16) - 2**15

    def _draw(self, number, values):
        """Uniform int16 [values]."""
        # Four values from each random word, and no floats: a third of Keras' time in bfloat16.
        words = tf.random.stateless_uniform(
            [(values + 3) // 4], [self.seed, number], None, None, tf.uint64, alg="philox")
        return tf.reshape(tf.bitcast(words, tf.int16), [-1])[:values]
