"""Losses from logits, one value per example, summed in float32.

The step divides the sum of the examples' values by the global batch size. The loss and its
gradient are therefore the same for any number of replicas.

Sums over voxels are matrix products. On CPUs they take a third of the time of TensorFlow's own
sums along these axes, and over 144x144x144 voxels their relative error is 1e-6 rather than 3e-5.
(GPUs with TensorFloat-32 round the summands to 10 bits, as in every convolution, but not the
sums.)
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import tensorflow as tf

from brats_tfrecord.records.manifest import Manifest
from brats_tfrecord.targets import Targets
from brats_tfrecord.training.network import layers

SMOOTHING_VOXELS = 1.0
"""Added to numerator and denominator of Dice, so that a class absent from truth and prediction
scores 1."""

TVERSKY_FALSE_POSITIVES, TVERSKY_FALSE_NEGATIVES = 0.3, 0.7
"""Weights of false positive and false negative voxels (Salehi et al. 2017)."""

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(truth float32 [B, X, Y, Z, K], logits of any float type, same shape) -> float32 [B]."""


def make_loss(name: str, targets: Targets, class_weights: Sequence[float] | None = None) -> Loss:
    """Makes a loss function.

    With a softmax, means over channels do not include the background.

    - cross_entropy: in nats, mean over voxels, and over channels with a sigmoid.
    - focal: cross-entropy with each term times (1 - p)^2, where p is the predicted probability of
      the truth (Lin et al. 2017).
    - dice: 1 - (2 TP + 1) / (2 TP + FP + FN + 1), soft, mean over channels (Drozdzal et al.
      2016). A class absent from the truth costs almost nothing until it is predicted.
    - tversky: as dice, with FP weighted 2 x 0.3 and FN 2 x 0.7 (Salehi et al. 2017).
    - dice_cross_entropy: sum of both, as in nnU-Net (Isensee et al. 2021).
    - batch_dice_cross_entropy: the same, with one Dice over all examples of the global batch,
      added to the value of each.

    Args:
        name: one of `NAMES`.
        targets: meaning of the K channels.
        class_weights: K factors of the channels' cross-entropy or focal terms (with a softmax, a
            voxel has the factor of its class), see `class_weights`; None for 1.

    Returns:
        The loss function. With a softmax, voxels whose truth is all 0 cost nothing.

    Raises:
        ValueError: an unknown name, or weights for a loss without cross-entropy.
    """
    if name not in NAMES:
        raise ValueError(f"loss {name!r}; expected one of {', '.join(NAMES)}")
    cost, overlap = _LOSSES[name]
    if class_weights is not None and cost is None:
        raise ValueError(f"loss {name!r} has no cross-entropy to weight by class")
    batch_of = _SoftmaxBatch if targets.activation == "softmax" else _SigmoidBatch
    weights = tf.ones(targets.channels) if class_weights is None else class_weights

    def loss(truth, logits):
        batch, value = batch_of(truth, logits), 0.0
        if cost is not None:
            costs = cost(batch.negative_log_probability)
            value += batch.mean(costs, tf.cast(weights, tf.float32))
        if overlap is not None:
            value += overlap(*batch.soft_counts())
        return value

    return loss


def deep_supervision(loss: Loss) -> Callable[[tf.Tensor, Sequence[tf.Tensor]], tf.Tensor]:
    """Extends a loss to logits of several resolutions (Isensee et al. 2021).

    Args:
        loss: from `make_loss`.

    Returns:
        Function (truth [B, X, Y, Z, K], list of logits, finest first, each of half the extents
        of the one before) -> float32 [B]: the mean with weights 1, 1/2, 1/4, … The truth is
        subsampled to every 2nd, 4th, … voxel of each axis.
    """

    def weighted(truth, pyramid):
        weights = [0.5**level for level in range(len(pyramid))]
        values = [
            weight * loss(truth[:, :: 2**level, :: 2**level, :: 2**level], logits)
            for level, (weight, logits) in enumerate(zip(weights, pyramid))
        ]
        return tf.add_n(values) / sum(weights)

    return weighted


def class_weights(
    manifest: Manifest, folds: Collection[int], targets: Targets
) -> tuple[float, ...]:
    """Computes inverse square roots of class frequencies (after Mahajan et al. 2018).

    With n_k the voxels of channel k in the crops of the cases, w_k = n_k^-1/2 * s, where s makes
    sum(n_k * w_k) = sum(n_k): the mean weight over all voxels of all channels is 1. If 20,000 of
    144x144x144 voxels enhance, each weighs 12 times as much as a background voxel; inverse
    frequencies would make that 150 times.

    Args:
        manifest: the dataset.
        folds: folds to count in.
        targets: meaning of the K channels.

    Returns:
        K weights; 1 for a channel without voxels.
    """
    counts = np.zeros(manifest.label_scheme.classes)
    for case in manifest.cases:
        if case.labelled and case.fold in folds:
            tumour = sum(case.class_voxels[1:])
            counts += case.class_voxels
            # The manifest counts background in the whole volume; the network sees the crop.
            counts[0] += (
                np.prod(manifest.crop_shape)
                - tumour
                + case.tumour_voxels_lost
                - case.class_voxels[0]
            )
    voxels = np.array([counts[list(classes)].sum() for classes in targets.channel_classes])
    roots = np.sqrt(voxels)
    return tuple(float(voxels.sum() / (roots.sum() * root)) if root else 1.0 for root in roots)


class _SoftmaxBatch:
    """Truth and prediction of a batch whose voxels [B, X, V] belong to one class each.

    `negative_log_probability` [B, X, V, K] is that of each class.
    """

    def __init__(self, truth, logits):
        self._truth = _by_voxel(truth)
        self.negative_log_probability = -layers.log_softmax(_by_voxel(logits))

    def mean(self, costs, weights):
        """Mean cost of the true class over voxels, weighted by class: float32 [B]."""
        by_class = tf.linalg.diag_part(_products(self._truth, costs))
        return tf.linalg.matvec(by_class, weights) / _voxels(costs)

    def soft_counts(self):
        """Soft voxel counts of each tumour class: common, true, predicted; float32 [B, K - 1]."""
        confusion = _products(self._truth, tf.exp(-self.negative_log_probability))
        return (
            tf.linalg.diag_part(confusion)[:, 1:],
            tf.reduce_sum(confusion, 2)[:, 1:],
            tf.reduce_sum(confusion, 1)[:, 1:],
        )


class _SigmoidBatch:
    """Truth and prediction of a batch whose voxels [B, X, V] may belong to several channels.

    `negative_log_probability` [B, X, V, K] is that of the truth in each channel.
    """

    def __init__(self, truth, logits):
        self._truth, self._logits = _by_voxel(truth), _by_voxel(logits)
        self.negative_log_probability = tf.nn.sigmoid_cross_entropy_with_logits(
            self._truth, self._logits
        )

    def mean(self, costs, weights):
        """Mean over voxels and channels, weighted by channel: float32 [B]."""
        by_channel = _sum_over_voxels(costs)
        return tf.linalg.matvec(by_channel, weights) / (_voxels(costs) * costs.shape[-1])

    def soft_counts(self):
        """Soft voxel counts of each channel: common, true, predicted; float32 [B, K]."""
        predicted = tf.sigmoid(self._logits)
        common = tf.linalg.diag_part(_products(self._truth, predicted))
        return common, _sum_over_voxels(self._truth), _sum_over_voxels(predicted)


def _cross_entropy(negative_log_probability):
    return negative_log_probability


def _focal(negative_log_probability):
    return tf.square(tf.math.expm1(-negative_log_probability)) * negative_log_probability


def _dice(common, truth, predicted):
    return 1 - tf.reduce_mean(_similarity(common, truth, predicted, 0.5, 0.5), axis=-1)


def _tversky(common, truth, predicted):
    similarity = _similarity(
        common, truth, predicted, TVERSKY_FALSE_POSITIVES, TVERSKY_FALSE_NEGATIVES
    )
    return 1 - tf.reduce_mean(similarity, axis=-1)


def _batch_dice(*soft_counts):
    """Dice loss of the global batch, repeated for each of this replica's examples."""
    total = tf.reduce_sum(tf.stack(soft_counts), axis=1)
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        # The gradient of all_reduce also sums over the replicas, as the whole loss requires.
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, total)
    return tf.fill(tf.shape(soft_counts[0])[:1], _dice(*tf.unstack(total)))


def _similarity(common, truth, predicted, false_positives, false_negatives):
    """Tversky index of soft voxel counts; Dice if both weights are 1/2."""
    smoothing = SMOOTHING_VOXELS / 2
    wrong = false_positives * (predicted - common) + false_negatives * (truth - common)
    return (common + smoothing) / (common + wrong + smoothing)


def _by_voxel(array):
    """Reshapes [B, X, Y, Z, K] to float32 [B, X, V, K], the voxels of each slice in a row.

    Slices are summed separately, then their sums. A matrix product adds one number after another
    on some processors, and a sum of millions of numbers loses digits (3e-5 of the loss at
    144x144x144).
    """
    batch, extent = tf.unstack(tf.shape(array)[:2])
    return tf.reshape(tf.cast(array, tf.float32), [batch, extent, -1, array.shape[-1]])


def _products(first, second):
    """Sums over voxels the products of each pair of channels: [B, K, K]."""
    return tf.reduce_sum(tf.matmul(first, second, transpose_a=True), axis=1)


def _sum_over_voxels(array):
    """Sums [B, X, V, K] to [B, K]."""
    return tf.reduce_sum(tf.matmul(tf.ones([1, 1, 1, tf.shape(array)[2]]), array), axis=[1, 2])


def _voxels(array):
    return tf.cast(tf.reduce_prod(tf.shape(array)[1:3]), tf.float32)


_LOSSES = {
    "cross_entropy": (_cross_entropy, None),
    "dice": (None, _dice),
    "dice_cross_entropy": (_cross_entropy, _dice),
    "batch_dice_cross_entropy": (_cross_entropy, _batch_dice),
    "focal": (_focal, None),
    "tversky": (None, _tversky),
}
NAMES = tuple(_LOSSES)
