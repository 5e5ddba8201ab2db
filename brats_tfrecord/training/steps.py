"""Single training and evaluation steps: the computation on the devices for one batch."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from brats_tfrecord import brain, pieces, spec
from brats_tfrecord.pieces import Piece
from brats_tfrecord.targets import Targets
from brats_tfrecord.training.network import layers
from brats_tfrecord.training.network.networks import Network
from brats_tfrecord.training.optimization.updates import Updates

Loss = Callable[[tf.Tensor, Sequence[tf.Tensor]], tf.Tensor]
"""(truth [B, X, Y, Z, K], logits of several levels, finest first) -> float32 [B]."""


class StepResult(NamedTuple):
    """The result of one training step, computed before the weights are updated.

    Attributes:
        loss, accuracy: float32 scalars of each replica. Their sum over all replicas is the mean
            over the batch's examples.
        sound: bool scalar, false if the gradients are not finite and a smaller loss scale cannot
            help.
    """

    loss: Any
    accuracy: Any
    sound: tf.Tensor


class EvalResult(NamedTuple):
    """The result of one evaluation step, for each replica.

    Attributes:
        scores: dict of float32 [B], `weight`, `loss`, `accuracy`, `dice_WT`, `dice_TC` and
            `dice_ET`.
        cases: int32 [B], the batch's `case`.
        slices: uint8 [B, X, Y], the predicted classes of one axial slice of each example.
    """

    scores: dict[str, Any]
    cases: Any
    slices: Any


def make_train_step(
    strategy: tf.distribute.Strategy,
    network: Network,
    targets: Targets,
    loss_function: Loss,
    updates: Updates,
    batch_size: int,
    xla: bool = False,
    brain_channel: bool = False,
) -> Callable[[Any], StepResult]:
    """Makes the function that trains on one batch.

    Args:
        strategy: the strategy whose scope `network` and `updates` were created in.
        network: the network to train.
        targets: the meaning of the network's outputs.
        loss_function: one value per example.
        updates: of the trainer's trainable variables.
        batch_size: examples per batch over all replicas. Losses of examples are summed and
            divided by it, so gradients do not depend on the number of replicas.
        xla: whether XLA compiles the forward and backward pass.
        brain_channel: whether the network's input has a brain channel, marked in the masks.

    Returns:
        Function (distributed batch of `make_train_dataset`) -> `StepResult`.
    """

    def forward_and_backward(batch):
        truth = targets.truth(batch["mask"])
        with tf.GradientTape() as tape, layers.dropout_numbers(batch["number"]):
            logits = _logits(network, _network_input(batch, brain_channel), training=True)
            loss = tf.reduce_sum(loss_function(truth, logits)) / batch_size
            scaled_loss = updates.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, network.trainer.trainable_variables)
        correct = accuracy(targets.classes(truth), targets.classes_of_logits(logits[0]))
        return loss, tf.reduce_sum(correct) / batch_size, gradients

    replica_step = (
        tf.function(forward_and_backward, jit_compile=True) if xla else forward_and_backward
    )

    @tf.function
    def train_step(batch):
        loss, correct, gradients = strategy.run(replica_step, args=(batch,))
        # Not reduced here: a sum over replicas on the host would make every step wait for it.
        return StepResult(loss, correct, updates.apply_gradients(gradients))

    return train_step


def make_eval_step(
    strategy: tf.distribute.Strategy,
    network: Network,
    targets: Targets,
    loss_function: Loss,
    piece: Piece,
    brain_channel: bool = False,
) -> Callable[[Any, tf.Tensor], EvalResult]:
    """Makes the function that scores each example of one batch.

    Args:
        strategy, network, targets, loss_function, brain_channel: as in `make_train_step`.
        piece: what the network sees at once. The loss of a crop that is predicted in windows is
            that of the blended probabilities; the coarser levels of deep supervision have no part
            in it.

    Returns:
        Function (distributed batch of `make_eval_dataset`, int32 tensor [cases] with the index of
        the axial slice to return of each case) -> `EvalResult`.
    """

    def replica_step(batch, slice_of_case):
        truth = targets.truth(batch["mask"])
        logits = _eval_logits(network, _network_input(batch, brain_channel), targets, piece)
        true_classes = targets.classes(truth)
        prediction = targets.classes_of_logits(logits[0])
        scores = {
            "weight": batch["weight"],
            "loss": loss_function(truth, logits),
            "accuracy": accuracy(true_classes, prediction),
            **{
                f"dice_{region}": region_dice(true_classes, prediction, classes)
                for region, classes in spec.REGIONS.items()
            },
        }
        index = tf.gather(slice_of_case, batch["case"])
        # Of the logits, because GPUs have no tf.gather of uint8.
        slices = tf.gather(logits[0], index, axis=3, batch_dims=1)
        return EvalResult(scores, batch["case"], targets.classes_of_logits(slices))

    return tf.function(
        lambda batch, slice_of_case: strategy.run(replica_step, args=(batch, slice_of_case))
    )


def accuracy(truth: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """Computes the share of correct voxels: two uint8 [B, X, Y, Z] -> float32 [B]."""
    correct = tf.cast(truth == prediction, tf.float32)
    return tf.reduce_mean(correct, axis=(1, 2, 3))


def region_dice(truth: tf.Tensor, prediction: tf.Tensor, classes: Sequence[int]) -> tf.Tensor:
    """Computes Dice of the union of `classes` in each example; 1 if both are empty (BraTS 2020).

    Args:
        truth, prediction: uint8 [B, X, Y, Z] canonical classes.
        classes: class ids that make up the region.

    Returns:
        float32 [B].
    """

    def region(ids):
        return tf.reduce_any([ids == class_id for class_id in classes], axis=0)

    def count(mask):
        return tf.math.count_nonzero(mask, axis=(1, 2, 3))

    truth, prediction = region(truth), region(prediction)
    common, sizes = count(truth & prediction), count(truth) + count(prediction)
    dice = 2 * common / tf.maximum(sizes, 1)
    return tf.cast(tf.where(sizes > 0, dice, 1), tf.float32)


def _network_input(batch, brain_channel):
    """Input of the network, float32 [B, X, Y, Z, C], with the brain channel if it has one."""
    image = tf.cast(batch["image"], tf.float32)
    return brain.append(image, brain.is_marked(batch["mask"])) if brain_channel else image


def _logits(network, image, training):
    """Logits of `image` [B, X, Y, Z, C], padded for the network and cropped again."""
    shape = image.shape[1:4]
    image = pieces.pad_to_stride(image, network.stride)
    cropped = []
    for level, logits in enumerate(network.trainer(image, training=training)):
        x, y, z = (-(-extent // 2**level) for extent in shape)
        cropped.append(logits[:, :x, :y, :z])
    return cropped


def _eval_logits(network, image, targets, piece):
    """Logits of `image`, predicted as the exported model predicts it."""
    if piece.is_whole(image.shape[1:4]):
        return _logits(network, image, training=False)
    probabilities = pieces.predict_windows(
        functools.partial(network.model, training=False), image, targets.channels, piece
    )
    return [targets.logits(probabilities)]
