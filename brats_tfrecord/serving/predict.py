"""Segments raw cases with a SavedModel: NIfTI in, labels on the case's own grid out."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.cohort.case import Case
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess import resample
from brats_tfrecord.preprocess.recipe import REFERENCES, Recipe, find_brain
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving import golden
from brats_tfrecord.serving.record_segmenter import RecordSegmenter, StageTimer
from brats_tfrecord.serving.segmentation import Segmentation


class Segmenter(RecordSegmenter):
    """Segments cases with a SavedModel that is loaded once.

    Reading, resampling, bias correction, cropping and normalisation follow the recipe the model
    was trained with. The crop window is extended until it contains the brain. The network sees it
    in the pieces it was trained on. Arrays have axes [X, Y, Z] in LPS order.

    Attributes:
        card: the model card.

    Example:
        >>> segmenter = Segmenter("model/saved_model")
        >>> for case in find_cases("cohort"):
        ...     segmenter.segment(case).write(f"{case.case_id}_seg.nii.gz")
    """

    def __init__(self, model_dir: Path | str) -> None:
        """Loads a SavedModel and checks it against its golden case.

        Args:
            model_dir: folder of the SavedModel, exported by train.py.

        Raises:
            InputError: the folder holds no model of this package, or the model does not load, was
                altered or does not reproduce its golden case.
        """
        card = cards.read(model_dir)
        try:
            # Signatures refer to their weights only weakly; this object owns the weights.
            self._model = tf.saved_model.load(str(model_dir))
            super().__init__(card, self._model.signatures["serving_default"])
        except (OSError, KeyError, ValueError, IndexError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"{model_dir}: the SavedModel does not load ({reason}); it is "
                "damaged, copy or export it again"
            ) from error
        golden.check(self._predict, model_dir, card)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities that the model needs, in the order of its channels."""
        return self.card.modalities

    @property
    def recipe(self) -> Recipe:
        """The preprocessing recipe the model was trained with."""
        return self.card.recipe

    @property
    def scheme(self) -> spec.LabelScheme:
        """The label scheme of the output."""
        return self.card.scheme

    def segment(self, case: Case, progress: Callable[[str], object] | None = None) -> Segmentation:
        """Reads and segments a case.

        Args:
            case: a case of `cohort.layouts.find_cases`.
            progress: called with the name of each stage as it begins: "reading", then those of
                `segment_raw`.

        Returns:
            The segmentation on the case's own grid.

        Raises:
            TypeError: `case` is not a `Case`.
            CaseError: a file cannot be used, or as in `segment_raw`.
        """
        if not isinstance(case, Case):
            raise TypeError(f"expected one of the cases of find_cases, got a {type(case).__name__}")
        self.require_usable(case.case_id, case.missing)
        timer = StageTimer(progress)
        with timer.stage("reading"):
            raw = nifti.read_case(
                case,
                self._modalities_to_read(case),
                with_mask=False,
                any_spacing=self.recipe.any_spacing,
                allow_missing=True,
                threads=_processors(),
            )
        return self._segment_raw(raw, timer)

    def segment_raw(
        self,
        raw: nifti.RawCase,
        progress: Callable[[str], object] | None = None,
        reading: float | None = None,
    ) -> Segmentation:
        """Segments a case that has been read.

        Args:
            raw: the volumes; channels are selected by name. A modality that the model does not
                read may place the crop window, as it does for records. A modality may be
                missing if the model was also trained without it: the network sees zeros in its
                place, and the result has a warning.
            progress: called with the name of each stage as it begins: "bias correction" (after
                resampling to 1 mm, if in the recipe), "network", "resampling" (to the case's own
                grid, if it differs) and "post-processing" (if the model has any).
            reading: seconds that reading took, to be listed in the result.

        Returns:
            The segmentation on the case's own grid.

        Raises:
            CaseError: as `require_usable`, or the 1 mm grid of the case would be too large.
        """
        timer = StageTimer(progress)
        if reading is not None:
            timer.seconds["reading"] = reading
        return self._segment_raw(raw, timer)

    def _segment_raw(self, raw, timer):
        absent = [name for name in self.modalities if name not in raw.modalities]
        missing = self.require_usable(raw.case_id, (*absent, *raw.missing))
        shape = self.recipe.grid_shape(raw)
        with timer.stage("bias correction"):
            volumes = self.recipe.correct(
                resample.volumes_to(shape, _channels(raw, self.modalities)), _processors()
            )
        with timer.stage("network"):
            origin = self._window_origin(raw, volumes)
            box = self.recipe.covering_box(
                volumes, self.modalities, origin, self.card.piece.alignment
            )
            image = self.recipe.network_input(volumes, origin, box)
            prediction = self._predict_box(image, box[0], shape, missing)
        return self._to_native(raw, prediction, timer)

    def _modalities_to_read(self, case):
        """Returns the model's modalities and the one that places a record's window."""
        references = [name for name in REFERENCES if name in case.images]
        placing = [] if self.recipe.crop == "fixed" else references[:1]
        return tuple(dict.fromkeys((*self.modalities, *placing)))

    def _window_origin(self, raw, volumes):
        """Returns the first voxel of the window that `Recipe.apply` cuts out of the case."""
        found = find_brain(raw.volumes, raw.modalities)
        if found is None or found[0] in self.modalities:
            return self.recipe.window(volumes, self.modalities)
        reference = (found[0],)
        channel = resample.volumes_to(volumes.shape[:3], _channels(raw, reference))
        return self.recipe.window(channel, reference)


def _channels(raw, modalities):
    """Selects channels of a raw case by name, float32 [X, Y, Z, C]; each stays contiguous.

    Modalities that the case does not have are 0.
    """
    count = len(modalities)
    if raw.modalities[:count] == modalities:
        return raw.volumes[..., :count]
    channels = np.zeros((count, *raw.volumes.shape[:3]), np.float32)
    for channel, name in zip(channels, modalities):
        if name in raw.modalities:
            channel[...] = raw.volumes[..., raw.modalities.index(name)]
    return np.moveaxis(channels, 0, -1)


def _processors():
    """Returns the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
