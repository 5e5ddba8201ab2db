import math
import types

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.targets import make_targets
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.optimization import losses

CLASSES, REGIONS = make_targets("classes", 4), make_targets("regions", 4)
BACKGROUND, NCR, ED, ET = range(4)

# Voxels of one column along x. Truth: two of NCR, one each of ED, ET and background. In the
# prediction one NCR is missed and the others are correct.
TRUTH = [NCR, NCR, ED, ET, BACKGROUND]
PREDICTED = [NCR, BACKGROUND, ED, ET, BACKGROUND]


def truth_of(classes, targets=CLASSES):
    """Truth of one column of voxels, float32 [1, X, 1, 1, K]."""
    return targets.truth(np.left_shift(1, np.reshape(classes, (1, -1, 1, 1))).astype(np.uint8))


def certain_logits(classes, targets=CLASSES):
    """Logits of a network that predicts `classes` with probability 1."""
    return 200 * (2 * truth_of(classes, targets) - 1)


def value_of(name, targets, truth=TRUTH, predicted=PREDICTED, **options):
    loss = losses.make_loss(name, targets, **options)
    return loss(truth_of(truth, targets), certain_logits(predicted, targets)).numpy()


# With "classes" one voxel of five is wrong, by 400 nats; NCR has TP 1 and FN 1. With "regions" that
# voxel is missed in WT and TC, by 200 nats each, of 15 terms. WT has 4 true and 3 predicted voxels,
# TC 3 and 2, ET 1 and 1.
@pytest.mark.parametrize(
    "name, classes, regions",
    [
        ("cross_entropy", 400 / 5, 2 * 200 / 15),
        ("focal", 400 / 5, 2 * 200 / 15),  # 1 - p is 1 where it is wrong
        ("dice", 1 - (3 / 4 + 1 + 1) / 3, 1 - (7 / 8 + 5 / 6 + 1) / 3),
        ("tversky", 1 - (1.5 / 2.2 + 1 + 1) / 3, 1 - (3.5 / 4.2 + 2.5 / 3.2 + 1) / 3),
        ("dice_cross_entropy", 400 / 5 + 0.25 / 3, 2 * 200 / 15 + (1 / 8 + 1 / 6) / 3),
        ("batch_dice_cross_entropy", 400 / 5 + 0.25 / 3, 2 * 200 / 15 + (1 / 8 + 1 / 6) / 3),
    ],
)
def test_values_by_hand(name, classes, regions):
    np.testing.assert_allclose(value_of(name, CLASSES), [classes], rtol=1e-5)
    np.testing.assert_allclose(value_of(name, REGIONS), [regions], rtol=1e-5)


def test_tversky_costs_less_for_a_false_positive_than_for_a_false_negative():
    # The mirror image: TP 1, FP 1.
    excess = value_of("tversky", CLASSES, PREDICTED, TRUTH)
    np.testing.assert_allclose(excess, [1 - (1.5 / 1.8 + 1 + 1) / 3], rtol=1e-5)
    assert excess < value_of("tversky", CLASSES)
    assert value_of("dice", CLASSES, PREDICTED, TRUTH) == value_of("dice", CLASSES)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_equal_logits_by_hand(dtype):
    truth, logits = truth_of(TRUTH), tf.zeros([1, 5, 1, 1, 4], dtype)
    for name, targets, expected in (
        ("cross_entropy", CLASSES, math.log(4)),
        ("cross_entropy", REGIONS, math.log(2)),
        ("focal", CLASSES, 0.75**2 * math.log(4)),
        ("focal", REGIONS, 0.5**2 * math.log(2)),
    ):
        value = losses.make_loss(name, targets)(
            truth_of(TRUTH, targets), logits[..., : targets.channels]
        )
        assert value.dtype == tf.float32
        np.testing.assert_allclose(value, [expected], rtol=1e-6)
    # Each class has a probability of 1/4 in 5 voxels: 1.25 soft voxels.
    soft = [(2 * size / 4 + 1) / (size + 1.25 + 1) for size in (2, 1, 1)]
    np.testing.assert_allclose(
        losses.make_loss("dice", CLASSES)(truth, logits), [1 - np.mean(soft)], rtol=1e-6
    )


@pytest.mark.parametrize("targets", [CLASSES, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("name", losses.NAMES)
class TestEveryLoss:
    def test_a_perfect_prediction_costs_nothing(self, name, targets):
        np.testing.assert_allclose(value_of(name, targets, TRUTH, TRUTH), [0], atol=1e-6)

    def test_a_correct_prediction_of_background_costs_nothing(self, name, targets):
        empty = [BACKGROUND] * 4
        np.testing.assert_allclose(value_of(name, targets, empty, empty), [0], atol=1e-6)
        assert value_of(name, targets, empty, [ET, *empty[1:]]) > 0.1

    def test_examples_are_independent_and_gradients_finite(self, name, targets):
        rng = np.random.default_rng(0)
        packed = np.left_shift(1, rng.integers(0, 4, (3, 4, 3, 2))).astype(np.uint8)
        packed[2] = 1  # an example with background only
        logits = tf.Variable(
            rng.normal(0, [[[[[1]]]], [[[[90]]]], [[[[1]]]]], (3, 4, 3, 2, targets.channels)),
            dtype=tf.float32,
        )
        loss = losses.make_loss(name, targets)
        with tf.GradientTape() as tape:
            values = loss(targets.truth(packed), logits)
        assert values.shape == (3,) and values.dtype == tf.float32
        gradient = tape.gradient(values, logits)
        assert np.isfinite(values).all() and np.isfinite(gradient).all()
        assert all(np.abs(example).max() > 0 for example in gradient)
        if not name.startswith("batch"):
            alone = loss(targets.truth(packed[1:2]), logits[1:2])
            np.testing.assert_allclose(values[1:2], alone, rtol=1e-5)


@pytest.mark.parametrize("targets", [CLASSES, REGIONS], ids=["classes", "regions"])
def test_focal_and_cross_entropy_equal_keras(targets):
    rng = np.random.default_rng(1)
    truth = truth_of(rng.integers(0, 4, 50), targets)
    logits = tf.constant(rng.normal(0, 2, truth.shape), tf.float32)
    if targets is CLASSES:
        focal = tf.keras.losses.categorical_focal_crossentropy(
            truth, logits, alpha=1, gamma=2, from_logits=True
        )
        plain = tf.keras.losses.categorical_crossentropy(truth, logits, from_logits=True)
    else:
        focal = tf.keras.losses.binary_focal_crossentropy(truth, logits, gamma=2, from_logits=True)
        plain = tf.keras.losses.binary_crossentropy(truth, logits, from_logits=True)
    for name, expected in (("focal", focal), ("cross_entropy", plain)):
        value = losses.make_loss(name, targets)(truth, logits)
        np.testing.assert_allclose(value, [np.mean(expected)], rtol=1e-5)


def test_sums_exceed_the_range_of_float16():
    packed = np.full((1, 48, 48, 48), 1 << ED, np.uint8)
    logits = tf.zeros((1, 48, 48, 48, 3), tf.float16)
    voxels = 48**3
    dice = {
        "WT": (voxels + 1) / (1.5 * voxels + 1),
        "TC": 1 / (voxels / 2 + 1),
        "ET": 1 / (voxels / 2 + 1),
    }
    value = losses.make_loss("dice_cross_entropy", REGIONS)(REGIONS.truth(packed), logits)
    np.testing.assert_allclose(value, [math.log(2) + 1 - np.mean(list(dice.values()))], rtol=1e-5)


def test_weights_multiply_cross_entropy_by_class_or_channel():
    # The wrong voxel is of NCR, which is part of WT and TC.
    value = value_of("cross_entropy", CLASSES, class_weights=(1, 3, 5, 7))
    np.testing.assert_allclose(value, [3 * 400 / 5], rtol=1e-5)
    value = value_of("focal", REGIONS, class_weights=(2, 3, 5))
    np.testing.assert_allclose(value, [(2 + 3) * 200 / 15], rtol=1e-5)
    value = value_of("dice_cross_entropy", CLASSES, class_weights=(1, 3, 5, 7))
    np.testing.assert_allclose(value, [3 * 400 / 5 + 0.25 / 3], rtol=1e-5)


@pytest.mark.parametrize("name", ["dice", "tversky"])
def test_weights_without_cross_entropy_are_refused(name):
    with pytest.raises(ValueError, match=f"loss '{name}' has no cross-entropy"):
        losses.make_loss(name, CLASSES, class_weights=(1, 1, 1, 1))


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="loss 'hinge'; expected one of cross_entropy, dice"):
        losses.make_loss("hinge", CLASSES)


def test_weights_are_roots_of_frequencies_with_mean_one():
    def row(fold, class_voxels, lost=0):
        return types.SimpleNamespace(
            labelled=fold is not None, fold=fold, class_voxels=class_voxels, tumour_voxels_lost=lost
        )

    # Crops of 100 voxels: 64 + 16 + 16 + 4; the manifest counts the background outside them too.
    manifest = types.SimpleNamespace(
        crop_shape=(5, 5, 4),
        label_scheme=spec.LABEL_SCHEMES["brats2020"],
        cases=[
            row(1, (964, 16, 16, 4)),
            row(2, (964, 16, 16, 4)),
            row(0, (0, 9, 9, 9)),
            row(None, ()),
        ],
    )
    value = losses.class_weights(manifest, [1, 2], CLASSES)
    roots = 8 + 4 + 4 + 2
    np.testing.assert_allclose(value, [100 / (roots * root) for root in (8, 4, 4, 2)])
    assert np.dot(value, [0.64, 0.16, 0.16, 0.04]) == pytest.approx(1)
    # WT 36, TC 20, ET 4
    roots = 6 + math.sqrt(20) + 2
    np.testing.assert_allclose(
        losses.class_weights(manifest, [1, 2], REGIONS),
        [60 / (roots * root) for root in (6, math.sqrt(20), 2)],
    )
    # Of 100 tumour voxels 36 lie outside the crop, which leaves it 36 of background.
    manifest.cases = [row(1, (900, 16, 64, 20), lost=36)]
    roots = np.sqrt([36, 16, 64, 20])
    np.testing.assert_allclose(
        losses.class_weights(manifest, [1], CLASSES), 136 / (roots.sum() * roots)
    )
    manifest.cases = [row(1, (984, 0, 16, 0))]
    assert losses.class_weights(manifest, [1], CLASSES)[1::2] == (1, 1)


def test_deep_supervision_halves_the_truth_and_the_weights():
    rng = np.random.default_rng(2)
    classes = rng.integers(0, 4, (2, 8, 4, 12))
    truth = CLASSES.truth(np.left_shift(1, classes).astype(np.uint8))
    pyramid = [
        tf.constant(rng.normal(size=(2, 8 // n, 4 // n, 12 // n, 4)), tf.float32) for n in (1, 2, 4)
    ]
    loss = losses.make_loss("dice_cross_entropy", CLASSES)
    value = losses.deep_supervision(loss)(truth, pyramid)
    assert value.shape == (2,)
    expected = sum(
        weight * loss(truth[:, ::n, ::n, ::n], logits)
        for n, weight, logits in zip((1, 2, 4), (4 / 7, 2 / 7, 1 / 7), pyramid)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(
        losses.deep_supervision(loss)(truth, pyramid[:1]), loss(truth, pyramid[0]), rtol=1e-6
    )


class TestBatchDice:
    """Four examples of very different sizes: their mean Dice is not the Dice of all together."""

    TARGETS = REGIONS

    def batch(self):
        rng = np.random.default_rng(3)
        classes = rng.integers(0, 4, (4, 6, 4, 5)) * (
            rng.random((4, 6, 4, 5)) < [[[[0.9]]], [[[0.02]]], [[[0.4]]], [[[0]]]]
        )
        packed = np.left_shift(1, classes).astype(np.uint8)
        return self.TARGETS.truth(packed), tf.constant(
            rng.normal(0, 2, (4, 6, 4, 5, 2)), tf.float32
        )

    def step(self, strategy, supervised=False):
        """(loss, gradient of a small network's kernel) of one batch split over replicas."""
        loss = losses.make_loss("batch_dice_cross_entropy", self.TARGETS)
        if supervised:
            loss = losses.deep_supervision(loss)
        with strategy.scope():
            kernel = tf.Variable(np.linspace(-1, 1, 6).reshape(2, 3), dtype=tf.float32)

        def replica_step(truth, image):
            with tf.GradientTape() as tape:
                logits = image @ kernel
                logits = [logits, logits[:, ::2, ::2, ::2]] if supervised else logits
                value = tf.reduce_sum(loss(truth, logits)) / 4
            return value, tape.gradient(value, kernel)

        @tf.function
        def step(batch):
            value, gradient = strategy.run(replica_step, args=batch)
            return (
                strategy.reduce("SUM", value, axis=None),
                strategy.reduce("SUM", gradient, axis=None),
            )

        data = tf.data.Dataset.from_tensors(self.batch()).unbatch().batch(4, drop_remainder=True)
        return step(next(iter(strategy.experimental_distribute_dataset(data))))

    def test_equals_dice_of_all_examples_as_one(self):
        truth, image = self.batch()
        logits = image @ tf.constant(np.linspace(-1, 1, 6).reshape(2, 3), tf.float32)
        value = losses.make_loss("batch_dice_cross_entropy", REGIONS)(truth, logits)

        def as_one(array):
            return tf.reshape(array, (1, 24, 4, 5, 3))

        dice = losses.make_loss("dice", REGIONS)(as_one(truth), as_one(logits))
        entropy = losses.make_loss("cross_entropy", REGIONS)(truth, logits)
        np.testing.assert_allclose(value, dice + entropy, rtol=1e-6)

    @pytest.mark.parametrize("supervised", [False, True])
    def test_replicas_change_neither_loss_nor_gradient(self, supervised):
        value, gradient = self.step(devices.make_strategy(), supervised)
        value_2, gradient_2 = self.step(devices.make_strategy(virtual_devices=2), supervised)
        np.testing.assert_allclose(value_2, value, rtol=1e-6)
        np.testing.assert_allclose(gradient_2, gradient, rtol=1e-5)

    def test_outside_of_replicas_only_the_batch_counts(self):
        truth, image = self.batch()
        loss = losses.make_loss("batch_dice_cross_entropy", REGIONS)
        logits = tf.repeat(image[..., :1], 3, axis=-1)
        plain, traced = loss(truth, logits), tf.function(loss)(truth, logits)
        with devices.make_strategy(virtual_devices=2).scope():
            scoped = loss(truth, logits)
        np.testing.assert_allclose([traced, scoped], [plain, plain], rtol=1e-6)
