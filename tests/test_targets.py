"""Conversions between masks, network outputs and canonical classes."""

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.targets import make_targets

BACKGROUND, NCR, ED, ET, RC = range(5)
EVERY_CLASS = np.left_shift(1, np.arange(5)).astype(np.uint8)
"""Five packed voxels: background, NCR/NET, ED, ET, RC."""


def test_channels_are_the_classes_of_the_scheme():
    targets = make_targets("classes", 5)
    assert targets.channel_names == ("background", "NCR/NET", "ED", "ET", "RC")
    assert targets.channels == 5 and targets.activation == "softmax"
    assert targets.background_fill == (1, 0, 0, 0, 0)
    assert make_targets("classes", 4).channel_names == spec.CLASS_NAMES[:4]


@pytest.mark.parametrize("classes, names", [(4, ("WT", "TC", "ET")), (5, ("WT", "TC", "ET", "RC"))])
def test_channels_are_the_regions_and_other_classes(classes, names):
    targets = make_targets("regions", classes)
    assert targets.channel_names == names and targets.channels == len(names)
    assert targets.activation == "sigmoid"
    assert targets.background_fill == (0,) * len(names)


def test_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="targets 'region'; expected one of classes, regions"):
        make_targets("region", 4)


def test_truth_is_one_where_the_class_is_in_the_channel():
    np.testing.assert_array_equal(make_targets("classes", 5).truth(EVERY_CLASS), np.eye(5))
    truth = make_targets("regions", 5).truth(EVERY_CLASS)
    assert truth.dtype == tf.float32
    np.testing.assert_array_equal(
        truth,
        [
            # WT, TC, ET, RC
            [0, 0, 0, 0],
            [1, 1, 0, 0],
            [1, 0, 0, 0],
            [1, 1, 1, 0],
            [0, 0, 0, 1],
        ],
    )


@pytest.mark.parametrize("name", ["classes", "regions"])
def test_truth_of_voxels_with_no_bit_or_two_bits(name):
    [empty, both] = make_targets(name, 4).truth(np.uint8([0, 1 << ED | 1 << ET])).numpy()
    assert not empty.any()
    np.testing.assert_array_equal(both, {"classes": [0, 0, 1, 1], "regions": [1, 1, 1]}[name])


@pytest.mark.parametrize("name", ["classes", "regions"])
@pytest.mark.parametrize("classes", [4, 5])
def test_classes_invert_the_truth(name, classes):
    targets = make_targets(name, classes)
    packed = np.tile(EVERY_CLASS[:classes], (3, 2, 1))
    class_ids = targets.classes(targets.truth(packed))
    assert class_ids.dtype == tf.uint8
    np.testing.assert_array_equal(class_ids, np.tile(range(classes), (3, 2, 1)))


@pytest.mark.parametrize(
    "probabilities, class_id",
    [
        ([0.5, 0.5, 0.5, 0.5], BACKGROUND),  # not above 0.5
        ([0.6, 0.0, 0.0, 0.0], ED),
        ([0.6, 0.6, 0.0, 0.0], NCR),
        ([0.0, 0.6, 0.0, 0.0], NCR),  # core outside the tumour is core
        ([0.0, 0.0, 0.6, 0.0], ET),
        ([0.9, 0.9, 0.6, 0.0], ET),
        ([0.9, 0.9, 0.9, 0.6], RC),
    ],
)
def test_later_regions_replace_earlier_ones(probabilities, class_id):
    targets = make_targets("regions", 5)
    assert targets.classes(np.float32(probabilities)) == class_id
    logits = np.log(np.float32(probabilities) + 1e-9) - np.log1p(-np.float32(probabilities))
    assert targets.classes_of_logits(logits) == class_id
    if class_id != RC:
        assert make_targets("regions", 4).classes(np.float32(probabilities[:3])) == class_id


def test_probabilities_are_float32_for_bfloat16_logits():
    logits = tf.constant([[0, np.log(3), 0, -30]], tf.bfloat16)
    softmax = make_targets("classes", 4).probabilities(logits)
    sigmoid = make_targets("regions", 5).probabilities(logits)
    assert softmax.dtype == sigmoid.dtype == tf.float32
    np.testing.assert_allclose(softmax, [[0.2, 0.6, 0.2, 0]], atol=2e-3)
    np.testing.assert_allclose(sigmoid, [[0.5, 0.75, 0.5, 0]], atol=2e-3)
    assert make_targets("classes", 4).classes_of_logits(logits) == [NCR]


def test_first_of_equally_probable_classes_wins():
    classes = make_targets("classes", 3).classes
    scores = tf.constant([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [-3.0, -2.0, -1.0]])
    assert classes(scores).numpy().tolist() == [1, 0, 2]
    scores = tf.round(2 * tf.random.stateless_normal([2, 3, 4, 5, 3], [1, 2]))
    np.testing.assert_array_equal(classes(scores), tf.argmax(scores, axis=-1))


@pytest.mark.parametrize("name", ["classes", "regions"])
def test_logits_have_the_probabilities_they_were_computed_from(name):
    targets = make_targets(name, 4)
    probabilities = targets.probabilities(
        np.random.default_rng(0).normal(0, 3, (6, targets.channels))
    )
    logits = targets.logits(probabilities)
    np.testing.assert_allclose(targets.probabilities(logits), probabilities, atol=1e-5)
    np.testing.assert_array_equal(targets.classes_of_logits(logits), targets.classes(probabilities))
    certain = targets.logits(tf.eye(targets.channels))
    assert np.isfinite(certain).all()
