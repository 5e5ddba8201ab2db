"""Raw case in, native-space segmentation out, from nothing but a SavedModel's folder."""

import time
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from brats_tfrecord.cohort import nifti
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.preprocess import masks, resample
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving import golden


@dataclass(frozen=True)
class Segmentation:
    """The segmentation of a whole case on its own grid, in LPS order; `write` undoes that too.

    Attributes:
        case_id: of the case.
        labels: uint8 [X, Y, Z] in the label scheme's own file values.
        classes: uint8 [X, Y, Z], the same as canonical class ids.
        probabilities: float32 [X, Y, Z, K], channels as the card's `channels` names them; outside
            the crop the background is certain.
        geometry: how the case's files lay.
        seconds: stage -> seconds it took.
    """

    case_id: str
    labels: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    geometry: nifti.Geometry
    seconds: dict[str, float]

    def write(self, path):
        """Writes the labels as uint8 NIfTI with the case's own order, affine and units."""
        nifti.write_volume(path, self.labels, self.geometry)


class Segmenter:
    """A SavedModel, loaded once, and the recipe it was trained with."""

    def __init__(self, model_dir):
        """Loads the SavedModel in `model_dir`.

        Raises:
            InputError: no SavedModel of ours there, one that does not load, or one that is not
                whole or answers otherwise than when it was exported.
        """
        self.card = cards.read(model_dir)
        try:
            model = tf.saved_model.load(str(model_dir))
            self._predict = model.signatures["serving_default"]
            self._segment = model.signatures["segment"]
        except (OSError, KeyError, ValueError, IndexError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"{model_dir}: the SavedModel does not load ({reason}); it is "
                             "damaged, copy or export it again") from error
        # Signatures hold their weights only weakly, through the object that owns them.
        self._owner = model
        golden.check(self._predict, model_dir, self.card)

    @property
    def modalities(self):
        """Names of the modalities it needs, in the order of its channels."""
        return self.card.modalities

    @property
    def recipe(self):
        """The `Recipe` of its training."""
        return self.card.recipe

    @property
    def scheme(self):
        """The `spec.LabelScheme` of the labels it writes."""
        return self.card.scheme

    def segment(self, case, progress=None):
        """Reads and segments a `cohort.layouts.Case`; see `segment_raw`."""
        _tell(progress, "reading")
        started = time.perf_counter()
        raw = nifti.read_case(case, self.modalities, with_mask=False,
                              any_spacing=self.recipe.any_spacing)
        return self.segment_raw(raw, progress, reading=time.perf_counter() - started)

    def segment_raw(self, raw, progress=None, reading=None):
        """Segments a case that has been read.

        Args:
            raw: `cohort.nifti.RawCase`; its channels are found by name.
            progress: called with "bias correction" (to a grid of 1 mm before it, where the
                recipe says so), "network", and then "resampling" (back) as each begins.
            reading: seconds that reading took, for the result's ledger.

        Returns:
            `Segmentation`.

        Raises:
            CaseError: a modality that the model needs is missing, or a 1 mm grid of the case
                would be too large.
        """
        missing = [name for name in self.modalities if name not in raw.modalities]
        if missing:
            raise CaseError(f"{raw.case_id}: no {', '.join(missing)}; this model needs "
                            f"{', '.join(self.modalities)}")
        seconds = {} if reading is None else {"reading": reading}
        channels = [raw.modalities.index(name) for name in self.modalities]
        shape = self.recipe.grid_shape(raw)
        corrected = _timed(seconds, progress, "bias correction", lambda: self.recipe.correct(
            resample.volumes_to(shape, raw.volumes[..., channels])))
        result = _timed(seconds, progress, "network",
                        lambda: self._run(self._segment, volume=corrected))
        classes = masks.to_classes(result["labels"], self.scheme, raw.case_id)
        return self._native(raw, classes, result["probabilities"], seconds, progress)

    def segment_stored(self, stored):
        """Segments a record's preprocessed image; the same result as from its raw case.

        Args:
            stored: `records.example.StoredCase` of a dataset made with this model's recipe.

        Returns:
            `Segmentation`.
        """
        seconds = {}
        channels = [stored.modalities.index(name) for name in self.modalities]
        image = stored.image[..., channels].astype(np.float32)
        result = _timed(seconds, None, "network",
                        lambda: self._run(self._predict, image=image[None]))
        window = result["probabilities"][0]
        place = stored.crop_origin, stored.grid_shape
        classes = self.recipe.to_grid(self._classes(window), *place)
        probabilities = self.recipe.to_grid(
            window, *place, fill=self.card.channels.background_fill)
        return self._native(stored, classes, probabilities, seconds)

    def _native(self, case, classes, probabilities, seconds, progress=None):
        """The `Segmentation` on the case's own grid, from its classes on the recipe's."""
        shape = case.geometry.lps_shape
        if classes.shape != shape:
            probabilities = _timed(seconds, progress, "resampling",
                                   lambda: resample.volumes_to(shape, probabilities))
            classes = self._classes(probabilities)
        return Segmentation(case.case_id, masks.to_file_values(classes, self.scheme), classes,
                            probabilities, case.geometry, seconds)

    def _classes(self, probabilities):
        return self.card.channels.classes(probabilities).numpy().astype(np.uint8)

    @staticmethod
    def _run(signature, **inputs):
        result = signature(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in result.items()}


def _tell(progress, stage):
    if progress is not None:
        progress(stage)


def _timed(seconds, progress, stage, work):
    """Runs `work`, announces it as `stage` and enters its seconds."""
    _tell(progress, stage)
    started = time.perf_counter()
    result = work()
    seconds[stage] = time.perf_counter() - started
    return result
