"""Writes a SavedModel that knows the whole road from corrected volumes to native labels."""

import os
import secrets
import shutil
import tempfile
from pathlib import Path

import tensorflow as tf

from brats_tfrecord import files
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving import recipe_graph, windows


def export_saved_model(network, card, path):
    """Exports `network` with both signatures of contract 2.

    `serving_default`: `image` float32 [B, X, Y, Z, C], preprocessed -> `probabilities` float32
    [B, X, Y, Z, K]. `segment`: `volume` float32 [X, Y, Z, C], resampled as the recipe says and
    bias-corrected, LPS order, any shape -> `labels` uint8 [X, Y, Z] in the label scheme's own
    values and `probabilities` float32 [X, Y, Z, K]; voxels outside the crop window are background
    for certain. The K channels are those of the card's `targets`.

    Args:
        network: float32 Keras model with None as spatial extents, whose output is probabilities.
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
        channels, targets = len(card.modalities), card.channels

        def probabilities_of(image):
            return windows.predict(network, image, card.stride, card.whole_voxels)

        @tf.function(autograph=False, input_signature=[
            tf.TensorSpec([None, None, None, None, channels], tf.float32, "image")])
        def predict(image):
            return {"probabilities": probabilities_of(image)}

        @tf.function(autograph=False, input_signature=[
            tf.TensorSpec([None, None, None, channels], tf.float32, "volume")])
        def segment(volume):
            origin = recipe_graph.window(volume, card.recipe, card.modalities)
            image = recipe_graph.network_input(volume, origin, card.recipe)
            probabilities = probabilities_of(image[None])[0]
            labels = tf.gather(tf.constant(card.scheme.values, tf.uint8),
                               targets.classes(probabilities))

            def to_grid(cut, fill):
                return recipe_graph.to_grid(cut, origin, tf.shape(volume)[:3], fill)

            whole = [to_grid(probabilities[..., k:k + 1], fill)
                     for k, fill in enumerate(targets.background_fill)]
            return {"labels": to_grid(labels[..., None], card.scheme.values[0])[..., 0],
                    "probabilities": tf.concat(whole, axis=-1)}

        self.predict = predict
        self.segment = segment


def _replace_folder(path, temporary):
    """Moves a finished folder into place; an old one steps aside first."""
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)
