"""Segments the preprocessed cases of a dataset: the network's window → the case's own grid."""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.cohort.nifti import RawCase
from brats_tfrecord.errors import CaseError
from brats_tfrecord.preprocess import crop, preprocessed, resample
from brats_tfrecord.records.example import StoredCase
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.segmentation import Segmentation, apply_post_processing


class RecordSegmenter:
    """Segments records with a model that need not have been exported.

    Attributes:
        card: the model card.
    """

    def __init__(self, card: ModelCard, predict: Callable) -> None:
        """Combines a model card with the model's function.

        Args:
            card: the model card.
            predict: `predictor.Predictor.predict`, or the signature `serving_default`.
        """
        self.card = card
        self._predict = predict

    def segment_stored(self, stored: StoredCase) -> Segmentation:
        """Segments the preprocessed image of a record: the recipe's crop window.

        Args:
            stored: record of a dataset with the model's recipe; it contains the model's
                modalities, in any order.

        Returns:
            The segmentation. It equals that of the raw case by a `predict.Segmenter` if the window
            contains the brain: a record holds nothing outside the window, whose voxels are then
            background with probability 1.

        Raises:
            CaseError: as `require_usable`.
        """
        missing = self.require_usable(stored.case_id, stored.missing)
        timer = StageTimer()
        channels = [stored.modalities.index(name) for name in self.card.modalities]
        with timer.stage("network"):
            prediction = self._predict_box(
                stored.image[..., channels], stored.crop_origin, stored.grid_shape, missing
            )
        return self._to_native(stored, prediction, timer)

    def require_usable(self, case_id: str, missing: Collection[str]) -> tuple[str, ...]:
        """Checks that the model can segment a case that lacks some modalities.

        Args:
            case_id: id of the case.
            missing: names of the modalities that it lacks, others than the model's included.

        Returns:
            The names of the model's modalities that it lacks, in the order of its channels.

        Raises:
            CaseError: the case lacks all of them, or one that every training case had.
        """
        reason = self.card.missing.refusal(case_id, self.card.modalities, missing)
        if reason:
            raise CaseError(reason)
        return tuple(name for name in self.card.modalities if name in missing)

    def _predict_box(self, image, origin, shape, missing=()):
        """Predicts the preprocessed box [x, y, z, C] at `origin` of a grid of `shape`.

        The channels of `missing` modalities are 0.
        """
        result = self._predict(image=tf.constant(image.astype(np.float32)[None]))
        probabilities = np.asarray(result["probabilities"])[0]
        classes = self.card.recipe.to_grid(self._classes(probabilities), origin, shape)
        kept = self.card.post_processing.without_small_enhancing_tumour(classes)
        return GridPrediction(
            classes,
            has_enhancing_tumour(classes) and not has_enhancing_tumour(kept),
            probabilities,
            tuple(origin),
            self._warnings(image, missing),
            missing,
        )

    def _warnings(self, image, missing):
        """Returns the card's caveats, and warnings about channels that are missing or constant."""
        card = self.card
        return (
            *card.caveats,
            *card.missing.warnings(card.modalities, missing),
            *(
                f"{name} does not vary: the network sees zeros in its place"
                for name in preprocessed.flat_channels(image, card.modalities)
                if name not in missing
            ),
        )

    def _to_native(
        self, case: RawCase | StoredCase, prediction: "GridPrediction", timer: "StageTimer"
    ) -> Segmentation:
        """Resamples the prediction to the case's own grid and post-processes it."""
        shape, post_processing = case.geometry.lps_shape, self.card.post_processing
        if prediction.classes.shape != shape:
            with timer.stage("resampling"):
                prediction = self._resampled(prediction, shape)
        classes = prediction.classes
        changes: tuple[str, ...] = ()
        if not post_processing.is_off:
            with timer.stage("post-processing"):
                classes, changes = apply_post_processing(
                    classes, prediction.replace_enhancing, post_processing, case.geometry.spacing_mm
                )
        return Segmentation(
            case.case_id,
            self.card,
            classes,
            prediction.box_probabilities,
            prediction.box_origin,
            case.geometry,
            changes,
            timer.seconds,
            (*prediction.warnings, *filter(None, [case.geometry.caveat])),
            prediction.missing,
        )

    def _resampled(self, prediction, shape):
        """Resamples a prediction to another grid; `replace_enhancing` is kept as decided."""
        whole = crop.uncrop(
            prediction.box_probabilities,
            prediction.box_origin,
            prediction.classes.shape,
            self.card.channels.background_fill,
        )
        probabilities = resample.volumes_to(shape, whole)
        return GridPrediction(
            self._classes(probabilities),
            prediction.replace_enhancing,
            probabilities,
            (0, 0, 0),
            prediction.warnings,
            prediction.missing,
        )

    def _classes(self, probabilities):
        return self.card.channels.classes(probabilities).numpy()


@dataclass(frozen=True)
class GridPrediction:
    """The network's prediction on a voxel grid, before post-processing.

    Attributes:
        classes: uint8 [X, Y, Z] canonical classes of the whole grid.
        replace_enhancing: whether post-processing replaces the enhancing tumour because it has
            too few voxels on the recipe's grid.
        box_probabilities: float32 [x, y, z, K] within the box that the network saw.
        box_origin: (x, y, z) of the box's first voxel.
        warnings: reasons to doubt the prediction.
        missing: names of the model's modalities that the case lacks.
    """

    classes: np.ndarray
    replace_enhancing: bool
    box_probabilities: np.ndarray
    box_origin: tuple[int, int, int]
    warnings: tuple[str, ...]
    missing: tuple[str, ...]


class StageTimer:
    """Announces the stages of a segmentation and measures their durations.

    Attributes:
        seconds: stage -> its duration in seconds, in the order of the stages.
    """

    def __init__(self, progress: Callable[[str], object] | None = None) -> None:
        """Starts without stages.

        Args:
            progress: called with the name of each stage as it begins.
        """
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Runs the block as the stage `name`."""
        if self._progress is not None:
            self._progress(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def has_enhancing_tumour(classes: np.ndarray) -> bool:
    """Returns whether any voxel of canonical classes uint8 [X, Y, Z] is enhancing tumour."""
    return bool((classes == spec.ET).any())
