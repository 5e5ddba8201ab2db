"""Writes a SavedModel that knows the whole road from corrected volumes to native labels."""

import os
import secrets
import shutil
import tempfile
from pathlib import Path

import tensorflow as tf

from brats_tfrecord import files
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving import windows


def export_saved_model(network, card, path):
    """Exports `network` with both signatures of contract 2.

    `serving_default`: `image` float32 [B, X, Y, Z, C], preprocessed -> `probabilities` float32
    [B, X, Y, Z, K]. `segment`: `volume` float32 [X, Y, Z, C], bias-corrected, LPS order, any
    shape -> `labels` uint8 [X, Y, Z] in the label scheme's own values and `probabilities` float32
    [X, Y, Z, K]; outside the crop window the background has probability 1.

    Args:
        network: float32 Keras model with None as spatial extents.
        card: `card.ModelCard`.
        path: folder; replaced whole or not at all.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            model_json = Path(scratch) / cards.FILE_NAME
            files.write_json(model_json, card.to_json())
            module = _Served(network, card, model_json)
            tf.saved_model.save(module, str(temporary), signatures={
                "serving_default": module.predict, "segment": module.segment})
        _replace_folder(path, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Served(tf.Module):
    """The graph of both signatures around a network's weights."""

    def __init__(self, network, card, model_json):
        super().__init__()
        self.model_json = tf.saved_model.Asset(str(model_json))
        # Tracking the weights rather than the Keras model keeps Keras out of the SavedModel.
        self.weights = network.weights
        channels = len(card.modalities)

        def probabilities_of(image):
            return windows.predict(network, image, card.stride, card.whole_voxels)

        @tf.function(autograph=False, input_signature=[
            tf.TensorSpec([None, None, None, None, channels], tf.float32, "image")])
        def predict(image):
            return {"probabilities": probabilities_of(image)}

        @tf.function(autograph=False, input_signature=[
            tf.TensorSpec([None, None, None, channels], tf.float32, "volume")])
        def segment(volume):
            image = network_input(volume, card.recipe)
            probabilities = probabilities_of(image[None])[0]
            classes = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
            labels = tf.gather(tf.constant(card.scheme.values, tf.uint8), classes)
            shape = tf.shape(volume)[:3]
            labels = _to_native(labels[..., None], card.recipe, shape, card.scheme.values[0])
            background = _to_native(probabilities[..., :1], card.recipe, shape, 1)
            others = _to_native(probabilities[..., 1:], card.recipe, shape, 0)
            return {"labels": labels[..., 0],
                    "probabilities": tf.concat([background, others], axis=-1)}

        self.predict = predict
        self.segment = segment


def network_input(volume, recipe):
    """`Recipe.network_input` in a graph: the same crop, statistics and image dtype.

    Args:
        volume: float32 [X, Y, Z, C], any shape.
        recipe: `Recipe`.

    Returns:
        float32 [*crop_shape, C], bit-equal to the stored image.
    """
    before, low, size, _ = _overlap(recipe, tf.shape(volume)[:3])
    after = tf.constant(recipe.crop_shape) - before - size
    window = tf.slice(volume, tf.pad(low, [[0, 1]]), tf.concat([size, [-1]], 0))
    window = tf.cast(_pad(window, before, after, 0), tf.float64)
    centred = window - _rounded(tf.reduce_mean(window, axis=(0, 1, 2)))
    deviation = _rounded(tf.sqrt(tf.reduce_mean(tf.square(centred), axis=(0, 1, 2))))
    image = tf.cast(tf.math.divide_no_nan(centred, deviation), tf.float32)
    image = tf.ensure_shape(image, [*recipe.crop_shape, None])
    return tf.cast(tf.cast(image, recipe.image_dtype), tf.float32)


def _rounded(statistic):
    """To float32 and back: see `preprocess.normalize.zscore`."""
    return tf.cast(tf.cast(statistic, tf.float32), tf.float64)


def _to_native(window, recipe, shape, fill):
    """`Recipe.to_native` in a graph: [*crop_shape, C] to [*shape, C]."""
    before, low, size, shape = _overlap(recipe, shape)
    inside = tf.slice(window, tf.pad(before, [[0, 1]]), tf.concat([size, [-1]], 0))
    return _pad(inside, low, shape - low - size, fill)


def _overlap(recipe, shape):
    """Where window and volume overlap: offset in the window, offset in the volume, size, shape."""
    origin = tf.constant(recipe.crop_origin)
    low = tf.clip_by_value(origin, 0, shape)
    high = tf.clip_by_value(origin + tf.constant(recipe.crop_shape), low, shape)
    return low - origin, low, high - low, shape


def _pad(tensor, before, after, fill):
    paddings = tf.pad(tf.stack([before, after], axis=1), [[0, 1], [0, 0]])
    return tf.pad(tensor, paddings, constant_values=tf.cast(fill, tensor.dtype))


def _replace_folder(path, temporary):
    """Moves a finished folder into place; an old one steps aside first."""
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)
