"""Zero padding that is safe in front of convolutions in TensorFlow 2.15."""

from collections.abc import Sequence

import tensorflow as tf


def zero_pad(tensor: tf.Tensor, paddings: tf.Tensor | Sequence[Sequence[int]]) -> tf.Tensor:
    """Pads a tensor with zeros, as `tf.pad` does.

    On CPUs with oneDNN, TensorFlow 2.15 fuses a Pad op with constant paddings into the convolution
    that follows and computes a wrong shape. It does not fuse PadV2.

    Args:
        tensor: float tensor of rank n.
        paddings: int32 [n, 2], number of zeros before and after each axis.

    Returns:
        The padded tensor, same dtype.
    """
    return tf.raw_ops.PadV2(input=tensor, paddings=paddings, constant_values=0.0)
