"""Writes a SavedModel that knows the whole road from corrected volumes to native labels."""

import dataclasses
import os
import secrets
import shutil
import tempfile
from pathlib import Path

import tensorflow as tf

from brats_tfrecord import files, spec
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving import ensemble, golden, recipe_graph, windows


def export_saved_model(networks, card, path):
    """Exports a network, or several as one, with both signatures of contract 2.

    `serving_default`: `image` float32 [B, X, Y, Z, C], preprocessed -> `probabilities` float32
    [B, X, Y, Z, K]. `segment`: `volume` float32 [X, Y, Z, C], resampled as the recipe says and
    bias-corrected, LPS order, any shape -> `labels` uint8 [X, Y, Z] in the label scheme's own
    values, post-processed as far as a graph can, and `probabilities` float32 [X, Y, Z, K], never
    post-processed. `segment` covers the brain, beyond the crop window where it is larger; voxels
    outside both are background for certain. Neither signature turns or flips an axis of what it
    gives back. C are the card's modalities, K the channels of its `targets`.

    Before the folder is put in place, the model is loaded from it and must answer its golden case
    as the networks do, to `golden.EXPORT_TOLERANCE`.

    Args:
        networks: float32 Keras model with None as spatial extents, whose output is probabilities;
            or a list of them, whose probabilities are averaged.
        card: `card.ModelCard`; its `members` and `assets` are set here.
        path: folder; replaced whole or not at all.

    Raises:
        ValueError: a network has other channels than the card.
        RuntimeError: the model saved does not answer as the networks do.
    """
    networks = tuple(networks) if isinstance(networks, (list, tuple)) else (networks,)
    _require_channels(networks, card)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        _save(networks, dataclasses.replace(card, members=len(networks)), temporary)
        _replace_folder(path, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save(networks, card, folder):
    """Saves to `folder`, and proves what it saved."""
    predict = _predictor(networks, card)
    image = golden.image(card)
    expected = predict(tf.constant(image)).numpy()
    with tempfile.TemporaryDirectory() as scratch:
        case, model_json = Path(scratch) / golden.FILE_NAME, Path(scratch) / cards.FILE_NAME
        golden.write(case, image, expected, card)
        card = dataclasses.replace(card, assets={case.name: files.sha256(case)})
        files.write_json(model_json, card.to_json())
        module = _Served(networks, predict, card, [case, model_json])
        tf.saved_model.save(
            module,
            str(folder),
            signatures={"serving_default": module.predict, "segment": module.segment},
        )
    loaded = tf.saved_model.load(str(folder))
    off = golden.difference(loaded.signatures["serving_default"], image, expected)
    if not off <= golden.EXPORT_TOLERANCE:
        raise RuntimeError(
            f"the model saved differs from its networks by {off:.2g} on the golden "
            f"case; expected at most {golden.EXPORT_TOLERANCE:g}"
        )


def _predictor(networks, card):
    """float32 [B, X, Y, Z, C] of any extents -> the answer, float32 [B, X, Y, Z, K]."""
    together = ensemble.Ensemble(map(_Traced, networks))

    def once(image):
        return windows.predict(together, image, card.stride, card.whole_voxels)

    def flipped(image):
        return ensemble.over_flips(once, image, card.channels.channels)

    return flipped if card.flips else once


class _Traced:
    """A network as one function of the graph, however often signatures and windows call it."""

    def __init__(self, network):
        self.output_shape = network.output_shape
        self._call = tf.function(
            network,
            autograph=False,
            input_signature=[tf.TensorSpec(network.input_shape, tf.float32, "image")],
        )

    def __call__(self, image):
        return self._call(image)


class _Served(tf.Module):
    """The graph of both signatures around the networks' weights."""

    def __init__(self, networks, predictor, card, assets):
        super().__init__()
        self.assets = [tf.saved_model.Asset(str(path)) for path in assets]
        # Tracking the weights rather than the Keras models keeps Keras out of the SavedModel.
        self.weights = [network.weights for network in networks]
        channels = len(card.modalities)

        @tf.function(
            autograph=False,
            input_signature=[
                tf.TensorSpec([None, None, None, None, channels], tf.float32, "image")
            ],
        )
        def predict(image):
            return {"probabilities": predictor(image)}

        @tf.function(
            autograph=False,
            input_signature=[tf.TensorSpec([None, None, None, channels], tf.float32, "volume")],
        )
        def segment(volume):
            labels, probabilities = _segment(predictor, volume, card)
            return {"labels": labels, "probabilities": probabilities}

        self.predict = predict
        self.segment = segment


def _segment(predictor, volume, card):
    """From float32 [X, Y, Z, C] to uint8 [X, Y, Z] and float32 [X, Y, Z, K]."""
    recipe, targets = card.recipe, card.channels
    origin = recipe_graph.window(volume, recipe, card.modalities)
    box = recipe_graph.covering_box(volume, origin, recipe, card.modalities, card.stride)
    image = recipe_graph.network_input(volume, origin, box, recipe)
    probabilities = predictor(image[None])[0]

    def to_grid(cut, fill):
        return recipe_graph.to_grid(cut, box[0], tf.shape(volume)[:3], fill)

    whole = [
        to_grid(probabilities[..., k : k + 1], fill)
        for k, fill in enumerate(targets.background_fill)
    ]
    found = tf.cast(targets.classes(probabilities), tf.uint8)
    classes = _without_faint_enhancement(
        to_grid(found[..., None], spec.BACKGROUND)[..., 0],
        card.post_processing.min_enhancing_voxels,
    )
    values = tf.constant(card.scheme.values, tf.uint8)
    return tf.gather(values, tf.cast(classes, tf.int32)), tf.concat(whole, axis=-1)


def _without_faint_enhancement(classes, at_least):
    """`PostProcessing.without_faint_enhancement` in a graph, on uint8 [X, Y, Z]."""
    if not at_least:
        return classes
    enhancing = tf.equal(classes, spec.ET)
    faint = tf.math.count_nonzero(enhancing) < at_least
    return tf.where(enhancing & faint, tf.constant(spec.NCR, tf.uint8), classes)


def _require_channels(networks, card):
    expected = len(card.modalities), card.channels.channels
    for network in networks:
        found = network.input_shape[-1], network.output_shape[-1]
        if found != expected:
            raise ValueError(
                f"a network has {found[0]} channels in and {found[1]} out; the card "
                f"says {expected[0]} and {expected[1]}"
            )


def _replace_folder(path, temporary):
    """Moves a finished folder into place; an old one steps aside first."""
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)
