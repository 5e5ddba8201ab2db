"""Exports networks as a SavedModel that includes preprocessing and the return to native labels."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from brats_tfrecord import files, spec
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving import golden, tf_recipe
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.predictor import Predictor


def export_saved_model(
    networks: tf.keras.Model | Sequence[tf.keras.Model], card: ModelCard, path: Path | str
) -> None:
    """Exports one network, or the average of several, as a SavedModel with two signatures.

    With C the modalities of the card and K the channels of its `targets`:

    * `serving_default`: `image` float32 [B, X, Y, Z, C], preprocessed -> `probabilities` float32
      [B, X, Y, Z, K].
    * `segment`: `volume` float32 [X, Y, Z, C], any shape, LPS order, bias-corrected and resampled
      as the recipe says -> `labels` uint8 [X, Y, Z] in the file values of the label scheme,
      `probabilities` float32 [X, Y, Z, K], and `enhancing_replaced` bool [], whether a small
      enhancing tumour was replaced in `labels`. Small components are not removed, and
      `probabilities` are not post-processed. The network sees the recipe's crop window, extended
      until it contains the brain; voxels outside are background with probability 1. A missing
      modality is a channel that is 0 everywhere.

    The new model is loaded and must reproduce its golden case to `golden.EXPORT_TOLERANCE` before
    it replaces the folder.

    Args:
        networks: float32 Keras model with spatial extents None, whose output is probabilities;
            or a list of them.
        card: the model card; `members` and `assets` are set here.
        path: folder to write. It is replaced as a whole, or left as it was on an error.

    Raises:
        ValueError: a network does not have the channels of the card.
        RuntimeError: the saved model does not reproduce the output of the networks.

    Example:
        >>> export_saved_model(network, card, "model/saved_model")
        >>> Segmenter("model/saved_model").segment(case).write("case_seg.nii.gz")
    """
    export_predictor(Predictor(networks, card), card, path)


def export_predictor(predictor: Predictor, card: ModelCard, path: Path | str) -> None:
    """Exports a predictor that may have been used before; see `export_saved_model`.

    Args:
        predictor: predictor of the networks.
        card: the predictor's card; `post_processing` and `training` may differ.
        path: folder to write.
    """
    with files.replacing_folder(path) as temporary:
        _save(predictor, dataclasses.replace(card, members=len(predictor.weights)), temporary)


def _save(predictor, card, folder):
    """Saves the model to `folder`, loads it again and compares its output."""
    image = golden.make_image(card)
    with golden.full_float32():
        expected = predictor.probabilities(tf.constant(image)).numpy()
    with tempfile.TemporaryDirectory() as scratch:
        case, model_json = Path(scratch) / golden.FILE_NAME, Path(scratch) / cards.FILE_NAME
        golden.write(case, image, expected, card)
        card = dataclasses.replace(card, assets={case.name: files.sha256(case)})
        files.write_json(model_json, card.to_json())
        module = _ServedModule(predictor, card, [case, model_json])
        tf.saved_model.save(
            module,
            str(folder),
            signatures={"serving_default": module.predict, "segment": module.segment},
        )
    loaded = tf.saved_model.load(str(folder))
    with golden.full_float32():
        difference = golden.max_difference(loaded.signatures["serving_default"], image, expected)
    if not difference <= golden.EXPORT_TOLERANCE:
        raise RuntimeError(
            f"the saved model differs from its networks by {difference:.2g} on the golden "
            f"case; expected at most {golden.EXPORT_TOLERANCE:g}"
        )


class _ServedModule(tf.Module):
    """The object that is saved: both signatures, the weights and the assets."""

    def __init__(self, predictor, card, assets):
        super().__init__()
        self.assets = [tf.saved_model.Asset(str(path)) for path in assets]
        # Tracking the weights instead of the Keras models keeps Keras out of the SavedModel.
        self.weights = predictor.weights
        # Saving a concrete function does not trace it, and with it the networks, once more.
        self.predict = predictor.predict.get_concrete_function()

        @tf.function(
            autograph=False,
            input_signature=[
                tf.TensorSpec([None, None, None, len(card.modalities)], tf.float32, "volume")
            ],
        )
        def segment(volume):
            labels, probabilities, replaced = _segment(predictor, volume, card)
            return {
                "labels": labels,
                "probabilities": probabilities,
                "enhancing_replaced": replaced,
            }

        self.segment = segment.get_concrete_function()


def _segment(predictor, volume, card):
    """Computes the three outputs of `segment` from float32 [X, Y, Z, C]."""
    recipe, targets = card.recipe, card.channels
    origin = tf_recipe.window(volume, recipe, card.modalities)
    box = tf_recipe.covering_box(volume, origin, recipe, card.modalities, card.piece.alignment)
    image = tf_recipe.network_input(volume, origin, box, recipe)
    probabilities = predictor.probabilities(image[None])[0]

    def to_grid(array, fill):
        return tf_recipe.to_grid(array, box[0], tf.shape(volume)[:3], fill)

    on_grid = [
        to_grid(probabilities[..., k : k + 1], fill)
        for k, fill in enumerate(targets.background_fill)
    ]
    classes, replaced = without_small_enhancing_tumour(
        to_grid(targets.classes(probabilities)[..., None], spec.BACKGROUND)[..., 0],
        card.post_processing.min_enhancing_voxels,
    )
    return _file_values(classes, card.scheme), tf.concat(on_grid, axis=-1), replaced


def _file_values(classes, scheme):
    """Converts canonical classes uint8 [...] to the values of a label scheme.

    By selection, because TensorFlow looks up uint8 tables on the CPU only.
    """
    values = classes
    for class_id, value in enumerate(scheme.values):
        if value != class_id:
            values = tf.where(classes == class_id, tf.constant(value, tf.uint8), values)
    return values


def without_small_enhancing_tumour(
    classes: tf.Tensor, min_voxels: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """`PostProcessing.without_small_enhancing_tumour` as TensorFlow operations.

    Args:
        classes: uint8 [X, Y, Z] canonical classes.
        min_voxels: enhancing tumour of fewer voxels is replaced.

    Returns:
        (uint8 [X, Y, Z], bool scalar: whether any voxel was replaced).
    """
    if not min_voxels:
        return classes, tf.constant(False)
    enhancing = tf.equal(classes, spec.ET)
    count = tf.math.count_nonzero(enhancing)
    replaced = (count > 0) & (count < min_voxels)
    return tf.where(enhancing & replaced, tf.constant(spec.NCR, tf.uint8), classes), replaced
