"""The inner steps: what happens on the devices for one batch. The outer loop is in `loop`."""

from typing import NamedTuple

import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.training.network import layers


class StepResult(NamedTuple):
    """What one training step found, before its update.

    Attributes:
        loss, accuracy: float32 scalars, means over the batch's examples.
        sound: bool scalar; false if the gradients are not finite and never will be.
    """

    loss: tf.Tensor
    accuracy: tf.Tensor
    sound: tf.Tensor


def make_train_step(strategy, network, targets, loss_of, updates, batch_size, xla=False):
    """Makes the function that learns from one batch.

    Args:
        strategy: under whose scope `network` and `updates` were made.
        network: `networks.Network`.
        targets: `targets.Targets` of its outputs.
        loss_of: function (truth [B, X, Y, Z, K], list of logits, finest first) -> float32 [B].
        updates: `updates.Updates` of the trainer's trainable variables.
        batch_size: examples a batch over all replicas; per-example losses are summed and divided
            by it, so gradients do not depend on the number of replicas.
        xla: whether XLA compiles forward and backward pass.

    Returns:
        function (distributed batch of `make_train_dataset`) -> `StepResult`.
    """

    def forward_and_backward(batch):
        truth = targets.truth(batch["mask"])
        with tf.GradientTape() as tape, layers.dropout_numbers(batch["number"]):
            logits = _logits(network, batch["image"], training=True)
            value = tf.reduce_sum(loss_of(truth, logits)) / batch_size
            scaled = updates.scaled(value)
        gradients = tape.gradient(scaled, network.trainer.trainable_variables)
        right = accuracy(targets.classes(truth), targets.classes_of_logits(logits[0]))
        return value, tf.reduce_sum(right) / batch_size, gradients

    replica_step = (
        tf.function(forward_and_backward, jit_compile=True) if xla else forward_and_backward
    )

    @tf.function
    def train_step(batch):
        value, right, gradients = strategy.run(replica_step, args=(batch,))
        sound = updates.take(gradients)
        return StepResult(
            strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None),
            strategy.reduce(tf.distribute.ReduceOp.SUM, right, axis=None),
            sound,
        )

    return train_step


def make_eval_step(strategy, network, targets, loss_of):
    """Makes the function that scores one batch, example by example.

    Args:
        strategy, network, targets, loss_of: as in `make_train_step`.

    Returns:
        function (distributed batch of `make_eval_dataset`) -> (scores, case, classes) of all
        replicas: dict of float32 arrays [B], `weight`, `loss`, `accuracy`, `dice_WT`, `dice_TC`
        and `dice_ET`; int32 [B] as in the batch; int32 [B, X, Y, Z], what is predicted.
    """

    def replica_step(batch):
        truth = targets.truth(batch["mask"])
        logits = _logits(network, batch["image"], training=False)
        right, prediction = targets.classes(truth), targets.classes_of_logits(logits[0])
        scores = {
            "weight": batch["weight"],
            "loss": loss_of(truth, logits),
            "accuracy": accuracy(right, prediction),
            **{
                f"dice_{region}": region_dice(right, prediction, classes)
                for region, classes in spec.REGIONS.items()
            },
        }
        return scores, batch["case"], prediction

    @tf.function
    def run(batch):
        return tf.nest.map_structure(
            lambda value: strategy.gather(value, axis=0), strategy.run(replica_step, args=(batch,))
        )

    return lambda batch: tf.nest.map_structure(lambda value: value.numpy(), run(batch))


def accuracy(truth, prediction):
    """Share of voxels of the right class: int [B, X, Y, Z] twice -> float32 [B]."""
    right = tf.cast(truth == prediction, tf.float32)
    return tf.reduce_mean(right, axis=(1, 2, 3))


def region_dice(truth, prediction, classes):
    """Dice of the union of `classes` in each example; 1 where both are empty (BraTS 2020).

    Args:
        truth, prediction: int [B, X, Y, Z] canonical classes.
        classes: ids that make up the region.

    Returns:
        float32 [B].
    """

    def inside(ids):
        return tf.reduce_any([ids == class_id for class_id in classes], axis=0)

    def count(mask):
        return tf.math.count_nonzero(mask, axis=(1, 2, 3))

    truth, prediction = inside(truth), inside(prediction)
    common, sizes = count(truth & prediction), count(truth) + count(prediction)
    dice = 2 * common / tf.maximum(sizes, 1)
    return tf.cast(tf.where(sizes > 0, dice, 1), tf.float32)


def _logits(network, image, training):
    """Logits of `image` [B, X, Y, Z, C], zero-padded for the network and cut back."""
    shape, image = image.shape[1:4], tf.cast(image, tf.float32)
    rest = [-extent % network.stride for extent in shape]
    if any(rest):
        # Not tf.pad: TensorFlow 2.15 folds its Pad into the convolution that follows, on CPUs
        # with oneDNN, and gets the shape wrong. It leaves PadV2 alone.
        paddings = [[0, 0], *([0, more] for more in rest), [0, 0]]
        image = tf.raw_ops.PadV2(input=image, paddings=paddings, constant_values=0.0)
    found = network.trainer(image, training=training)
    return [
        logits[(slice(None), *(slice(-(-extent // 2**level)) for extent in shape))]
        for level, logits in enumerate(found)
    ]
