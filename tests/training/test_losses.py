import math

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.training import losses


def one_hot(classes, count=4):
    return tf.one_hot(np.reshape(classes, (1, -1, 1, 1)), count)


def sure(classes, count=4):
    """Logits of a network that is certain of `classes`."""
    return 200 * one_hot(classes, count)


def test_cross_entropy_of_a_network_that_knows_nothing_is_the_log_of_the_classes():
    truth = one_hot([0, 1, 2, 3, 0, 0])
    for dtype in (tf.float16, tf.bfloat16, tf.float32):
        value = losses.cross_entropy(truth, tf.zeros_like(truth, dtype))
        assert value.dtype == tf.float32
        np.testing.assert_allclose(value, [math.log(4)], rtol=1e-6)


def test_cross_entropy_averages_over_voxels_for_each_example():
    truth = tf.concat([one_hot([0, 1]), one_hot([0, 0])], axis=0)
    logits = tf.concat([sure([0, 0]), sure([0, 0])], axis=0)
    # One voxel of two is wrong by 200 nats; the other example is right.
    np.testing.assert_allclose(losses.cross_entropy(truth, logits), [100, 0], atol=1e-5)


def test_dice_by_hand():
    # Class 1: two voxels of truth, one found: (2 + 1) / (2 + 1 + 1). Class 2 exact.
    # Class 3 absent from both: 1, by the smoothing.
    truth, logits = one_hot([1, 1, 2, 0]), sure([1, 0, 2, 0])
    np.testing.assert_allclose(losses.dice_loss(truth, logits), [1 - (3 / 4 + 1 + 1) / 3],
                               atol=1e-6)


def test_dice_of_a_perfect_prediction_is_zero_and_of_an_invented_class_is_not():
    truth = one_hot([0, 1, 2, 3])
    np.testing.assert_allclose(losses.dice_loss(truth, sure([0, 1, 2, 3])), [0], atol=1e-6)
    empty = one_hot([0] * 50)
    invented = losses.dice_loss(empty, sure([1] * 49 + [0]))
    np.testing.assert_allclose(invented, [(1 - 1 / 50) / 3], atol=1e-6)


def test_sums_stay_finite_where_float16_ends():
    truth = tf.one_hot(tf.ones([1, 48, 48, 48], tf.int32), 2, dtype=tf.float16)
    value = losses.dice_cross_entropy(truth, tf.zeros_like(truth))
    voxels = 48**3
    dice = (voxels + 1) / (1.5 * voxels + 1)
    np.testing.assert_allclose(value, [math.log(2) + 1 - dice], rtol=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "dice_cross_entropy"])
def test_losses_by_name_give_one_value_an_example(name):
    truth = tf.concat([one_hot([0, 3])] * 3, axis=0)
    assert losses.per_example_loss(name)(truth, tf.zeros_like(truth)).shape == (3,)
