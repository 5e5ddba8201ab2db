"""Records inside a TensorFlow graph: the parser of training's input pipeline."""

import tensorflow as tf

from brats_tfrecord.records.example import FEATURES, INTS


def parse(serialized, image_dtype):
    """Parses what training needs.

    Args:
        serialized: string scalar.
        image_dtype: the recipe's `image_dtype`, known before any record is read.

    Returns:
        dict of `case_id` string, `image` [X, Y, Z, C] of image_dtype, `mask` uint8 [X, Y, Z]
        packed (zeros if unlabelled) and `labelled` bool.
    """
    lengths = {"image/shape": 4}
    names = ("case_id", "image", "image/shape", "mask")
    found = tf.io.parse_single_example(serialized, {
        name: tf.io.FixedLenFeature([lengths[name]], tf.int64) if FEATURES[name] is INTS
        else tf.io.FixedLenFeature([], tf.string) for name in names})
    shape = found["image/shape"]
    labelled = tf.strings.length(found["mask"]) > 0
    mask = tf.cond(
        labelled,
        lambda: tf.reshape(tf.io.decode_raw(found["mask"], tf.uint8), shape[:3]),
        lambda: tf.zeros(shape[:3], tf.uint8),
    )
    image = tf.reshape(tf.io.decode_raw(found["image"], tf.as_dtype(image_dtype)), shape)
    image.set_shape([None, None, None, None])
    mask.set_shape([None, None, None])
    return {"case_id": found["case_id"], "image": image, "mask": mask, "labelled": labelled}


def unpack(packed, classes, dtype=tf.float32):
    """`preprocess.masks.unpack` in a graph: uint8 [...] to one-hot [..., classes] of `dtype`."""
    bits = tf.constant([1 << class_id for class_id in range(classes)], tf.uint8)
    return tf.cast(tf.bitwise.bitwise_and(packed[..., None], bits) > 0, dtype)
