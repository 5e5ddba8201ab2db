"""Losses from logits, one value an example, summed in float32.

Values by example, not batch means: the step divides their sum by the global batch size, so the
loss and its gradient are the same however many replicas share the batch.

Sums over voxels are matrix products. On CPUs they take a third of the time of TensorFlow's own
sums along these axes, and of 144x144x144 voxels lose 1e-6 of the value rather than 3e-5. (GPUs
with TensorFloat-32 round what is summed to 10 bits, as in every convolution, but not the sums.)
"""

import numpy as np
import tensorflow as tf

from brats_tfrecord.training.network import layers

SMOOTHING_VOXELS = 1.0
"""Added above and below the fraction of Dice: a class absent from truth and prediction scores 1."""

TVERSKY_FALSE_POSITIVES, TVERSKY_FALSE_NEGATIVES = 0.3, 0.7
"""What voxels found in excess and voxels missed weigh (Salehi et al. 2017)."""


def make_loss(name, targets, class_weights=None):
    """Makes a loss function.

    The losses, whose means over channels leave out the background under softmax:

    - cross_entropy: in nats, mean over voxels, and over channels under sigmoid.
    - focal: the same, each term times (1 - p)^2, p being the probability that the network gives
      the truth (Lin et al. 2017).
    - dice: 1 - (2 TP + 1) / (2 TP + FP + FN + 1), soft, mean over channels (Drozdzal et al.
      2016). A class absent from the truth costs next to nothing until it is predicted.
    - tversky: the same with FP weighted 2 x 0.3 and FN 2 x 0.7 (Salehi et al. 2017).
    - dice_cross_entropy: their sum, as in nnU-Net (Isensee et al. 2021).
    - batch_dice_cross_entropy: its Dice is that of all examples of the global batch as if they
      were one, and part of the value of each.

    Args:
        name: one of `NAMES`.
        targets: `targets.Targets`.
        class_weights: K factors of the channels' cross-entropy or focal terms (under softmax a
            voxel has its class's), see `class_weights`; None for 1.

    Returns:
        function (truth float32 [B, X, Y, Z, K], logits of any float type, same shape) -> float32
        [B]. Under softmax, voxels whose truth is all 0 cost nothing.

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
            value += batch.mean(cost(batch.surprise), tf.cast(weights, tf.float32))
        if overlap is not None:
            value += overlap(*batch.sizes())
        return value

    return loss


def deep_supervision(loss):
    """Lets `loss` take the logits of several resolutions (Isensee et al. 2021).

    Args:
        loss: of `make_loss`.

    Returns:
        function (truth [B, X, Y, Z, K], list of logits, finest first, each of half the extents
        of the one before) -> float32 [B]: the mean with weights 1, 1/2, 1/4, … The truth is cut
        down to its nearest neighbours, every 2nd, 4th, … voxel of each axis.
    """

    def weighted(truth, pyramid):
        weights = [0.5**level for level in range(len(pyramid))]
        values = [
            weight * loss(truth[:, :: 2**level, :: 2**level, :: 2**level], logits)
            for level, (weight, logits) in enumerate(zip(weights, pyramid))
        ]
        return tf.add_n(values) / sum(weights)

    return weighted


def class_weights(manifest, folds, targets):
    """Weights for `make_loss`: inverse square roots of frequencies (after Mahajan et al. 2018).

    With n_k the voxels of channel k in the crops of the cases, w_k = n_k^-1/2 * s, and s such that
    sum(n_k * w_k) = sum(n_k): the mean weight of a voxel is 1, under regions that of a voxel's
    membership. Where 20,000 voxels of 144x144x144 enhance, each weighs 12 times a background voxel;
    the frequencies themselves would make it 150 times.

    Args:
        manifest: `records.manifest.Manifest`.
        folds: folds to count in.
        targets: `targets.Targets`.

    Returns:
        K floats; 1 for a channel without a voxel.
    """
    counts = np.zeros(manifest.label_scheme.classes)
    for case in manifest.cases:
        if case.labelled and case.fold in folds:
            tumour = sum(case.class_voxels[1:])
            counts += case.class_voxels
            # Rows count the whole head; the network sees the crop.
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
    """Voxels [B, X, V, K] of one class each.

    `surprise` is -log of each class's probability, [B, X, V, K].
    """

    def __init__(self, truth, logits):
        self._truth = _by_voxel(truth)
        self.surprise = -layers.log_softmax(_by_voxel(logits))

    def mean(self, costs, weights):
        """Mean over voxels of the true class's cost, weighted by class: float32 [B]."""
        by_class = tf.linalg.diag_part(_products(self._truth, costs))
        return tf.linalg.matvec(by_class, weights) / _voxels(costs)

    def sizes(self):
        """Soft voxels of each tumour class: common, in truth, predicted; float32 [B, K - 1]."""
        confusion = _products(self._truth, tf.exp(-self.surprise))
        return (
            tf.linalg.diag_part(confusion)[:, 1:],
            tf.reduce_sum(confusion, 2)[:, 1:],
            tf.reduce_sum(confusion, 1)[:, 1:],
        )


class _SigmoidBatch:
    """Voxels [B, X, V, K], in or out of each channel by itself.

    `surprise` is -log of the probability of what is true, [B, X, V, K].
    """

    def __init__(self, truth, logits):
        self._truth, self._logits = _by_voxel(truth), _by_voxel(logits)
        self.surprise = tf.nn.sigmoid_cross_entropy_with_logits(self._truth, self._logits)

    def mean(self, costs, weights):
        """Mean over voxels and channels, weighted by channel: float32 [B]."""
        by_channel = _sum_over_voxels(costs)
        return tf.linalg.matvec(by_channel, weights) / (_voxels(costs) * costs.shape[-1])

    def sizes(self):
        """Soft voxels of each channel: common, in truth, predicted; float32 [B, K]."""
        predicted = tf.sigmoid(self._logits)
        common = tf.linalg.diag_part(_products(self._truth, predicted))
        return common, _sum_over_voxels(self._truth), _sum_over_voxels(predicted)


def _cross_entropy(surprise):
    return surprise


def _focal(surprise):
    return tf.square(tf.math.expm1(-surprise)) * surprise


def _dice(common, truth, predicted):
    return 1 - tf.reduce_mean(_similarity(common, truth, predicted, 0.5, 0.5), axis=-1)


def _tversky(common, truth, predicted):
    similarity = _similarity(
        common, truth, predicted, TVERSKY_FALSE_POSITIVES, TVERSKY_FALSE_NEGATIVES
    )
    return 1 - tf.reduce_mean(similarity, axis=-1)


def _batch_dice(*sizes):
    """`_dice` of the global batch, once for each of this replica's examples."""
    total = tf.reduce_sum(tf.stack(sizes), axis=1)
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        # Its gradient sums over the replicas as well: each gets the whole loss's.
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, total)
    return tf.fill(tf.shape(sizes[0])[:1], _dice(*tf.unstack(total)))


def _similarity(common, truth, predicted, false_positives, false_negatives):
    """Tversky index of soft voxel counts; Dice where both weights are 1/2."""
    smoothing = SMOOTHING_VOXELS / 2
    wrong = false_positives * (predicted - common) + false_negatives * (truth - common)
    return (common + smoothing) / (common + wrong + smoothing)


def _by_voxel(array):
    """[B, X, Y, Z, K] to float32 [B, X, V, K]: voxels slice by slice.

    Each slice is summed by itself, then the sums: a matrix product adds one number after another
    on some processors, and millions in a row lose digits (3e-5 of the loss at 144x144x144).
    """
    batch, extent = tf.unstack(tf.shape(array)[:2])
    return tf.reshape(tf.cast(array, tf.float32), [batch, extent, -1, array.shape[-1]])


def _products(first, second):
    """Sums over voxels of each channel of one times each of the other: [B, K, K]."""
    return tf.reduce_sum(tf.matmul(first, second, transpose_a=True), axis=1)


def _sum_over_voxels(array):
    """[B, X, V, K] to [B, K]."""
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
