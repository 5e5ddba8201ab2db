"""The inner steps: what happens on the devices for one batch. The outer loop is in `loop`."""

import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.training import losses, unet


def make_train_step(strategy, model, optimizer, loss, batch_size, stride):
    """Makes the function that learns from one batch.

    Args:
        strategy: under whose scope `model` and `optimizer` were made.
        model: from `unet.build_unet`.
        optimizer: from `optimizers.make_optimizer`.
        loss: name, see `losses.per_example_loss`.
        batch_size: examples a batch over all replicas; per-example losses are summed and divided
            by it, so gradients do not depend on the number of replicas.
        stride: of the network; patches are zero-padded to a multiple of it.

    Returns:
        function (distributed batch of `image`, `truth`) -> (loss, accuracy), float32 scalars:
        means over the batch's examples, before the step's update.
    """
    network = unet.logits_model(model)
    loss_of = losses.per_example_loss(loss)
    scaling = isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer)

    def replica_step(batch):
        with tf.GradientTape() as tape:
            logits = _logits(network, batch["image"], stride, training=True)
            value = tf.reduce_sum(loss_of(batch["truth"], logits)) / batch_size
            scaled = optimizer.get_scaled_loss(value) if scaling else value
        gradients = tape.gradient(scaled, model.trainable_variables)
        if scaling:
            gradients = optimizer.get_unscaled_gradients(gradients)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        right = accuracy(_classes(batch["truth"]), _classes(logits))
        return value, tf.reduce_sum(right) / batch_size

    @tf.function
    def train_step(batch):
        value, right = strategy.run(replica_step, args=(batch,))
        return (strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None),
                strategy.reduce(tf.distribute.ReduceOp.SUM, right, axis=None))

    return train_step


def make_eval_step(strategy, model, loss, stride):
    """Makes the function that scores one batch, example by example.

    Args:
        strategy, model, loss, stride: as in `make_train_step`.

    Returns:
        function (distributed batch of `make_eval_dataset`) -> dict of float32 arrays [B]:
        `weight`, `loss`, `accuracy`, and `dice_WT`, `dice_TC`, `dice_ET`.
    """
    network = unet.logits_model(model)
    loss_of = losses.per_example_loss(loss)

    def replica_step(batch):
        logits = _logits(network, batch["image"], stride, training=False)
        truth, prediction = _classes(batch["truth"]), _classes(logits)
        return {
            "weight": batch["weight"],
            "loss": loss_of(batch["truth"], logits),
            "accuracy": accuracy(truth, prediction),
            **{f"dice_{region}": region_dice(truth, prediction, classes)
               for region, classes in spec.REGIONS.items()},
        }

    @tf.function
    def run(batch):
        return strategy.run(replica_step, args=(batch,))

    def eval_step(batch):
        return {name: tf.concat(strategy.experimental_local_results(value), axis=0).numpy()
                for name, value in run(batch).items()}

    return eval_step


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


def _logits(network, image, stride, training):
    """Logits of `image` [B, X, Y, Z, C], zero-padded for the network and cut back."""
    shape = image.shape[1:4]
    rest = [-extent % stride for extent in shape]
    if any(rest):
        # Not tf.pad: TensorFlow 2.15 folds its Pad into the convolution that follows, on CPUs
        # with oneDNN, and gets the shape wrong. It leaves PadV2 alone.
        paddings = [[0, 0], *([0, more] for more in rest), [0, 0]]
        image = tf.raw_ops.PadV2(input=image, paddings=paddings, constant_values=0.0)
    logits = network(image, training=training)
    return logits[:, : shape[0], : shape[1], : shape[2]]


def _classes(scores):
    return tf.argmax(scores, axis=-1, output_type=tf.int32)
