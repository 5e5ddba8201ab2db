"""Raw case in, native-space segmentation out, from nothing but a SavedModel's folder."""

import os
import time
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.cohort.case import Case
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.preprocess import crop, masks, preprocessed, resample
from brats_tfrecord.preprocess.recipe import REFERENCES
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving import golden
from brats_tfrecord.serving.segmentation import Segmentation, corrected

COVERS = ("brain", "window")
"""What of a case the network sees: the brain where it is larger than the recipe's window, or the
window alone, as training saw it."""


class Segmenter:
    """A SavedModel, loaded once, and the recipe it was trained with."""

    def __init__(self, model_dir, cover="brain"):
        """Loads the SavedModel in `model_dir`.

        Args:
            model_dir: its folder.
            cover: one of `COVERS`. With "window" a case and its record in a dataset of the
                model's recipe give the same.

        Raises:
            InputError: no SavedModel of ours there, one that does not load, was altered or
                answers its golden case wrongly, or another cover.
        """
        if cover not in COVERS:
            raise InputError(f"cover={cover!r}: expected one of {', '.join(COVERS)}")
        self.cover = cover
        self.card = cards.read(model_dir)
        try:
            model = tf.saved_model.load(str(model_dir))
            self._predict = model.signatures["serving_default"]
            self._segment = model.signatures["segment"]
        except (OSError, KeyError, ValueError, IndexError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"{model_dir}: the SavedModel does not load ({reason}); it is "
                "damaged, copy or export it again"
            ) from error
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
        """Reads and segments a `cohort.Case`; see `segment_raw`.

        Raises:
            TypeError: not a case.
        """
        if not isinstance(case, Case):
            raise TypeError(f"expected one of the cases of find_cases, got a {type(case).__name__}")
        _tell(progress, "reading")
        started = time.perf_counter()
        raw = nifti.read_case(
            case,
            self._to_read(case),
            with_mask=False,
            any_spacing=self.recipe.any_spacing,
            threads=_processors(),
        )
        return self.segment_raw(raw, progress, reading=time.perf_counter() - started)

    def segment_raw(self, raw, progress=None, reading=None):
        """Segments a case that has been read.

        Args:
            raw: `cohort.nifti.RawCase`; its channels are found by name. A modality that the model
                does not read serves to place the window, where the record's would be placed by it.
            progress: called with "bias correction" (to a grid of 1 mm before it, where the
                recipe says so), "network", "resampling" (back, where it went there) and
                "post-processing" (where the model has any) as each begins.
            reading: seconds that reading took, for the result's ledger.

        Returns:
            `Segmentation`.

        Raises:
            CaseError: a modality that the model needs is missing, or a 1 mm grid of the case
                would be too large.
        """
        missing = [name for name in self.modalities if name not in raw.modalities]
        if missing:
            raise CaseError(
                f"{raw.case_id}: no {', '.join(missing)}; this model needs "
                f"{', '.join(self.modalities)}"
            )
        seconds = {} if reading is None else {"reading": reading}
        shape = self.recipe.grid_shape(raw)
        volumes = _timed(
            seconds,
            progress,
            "bias correction",
            lambda: self.recipe.correct(
                resample.volumes_to(shape, _channels(raw, self.modalities)), _processors()
            ),
        )
        found = _timed(seconds, progress, "network", lambda: self._of_grid(raw, volumes))
        return self._native(raw, found, seconds, progress)

    def segment_stored(self, stored):
        """Segments a record's preprocessed image: the recipe's window, whatever the cover.

        Args:
            stored: `records.example.StoredCase` of a dataset made with this model's recipe.

        Returns:
            `Segmentation`, equal to that of its raw case with the cover "window".
        """
        seconds = {}
        found = _timed(
            seconds,
            None,
            "network",
            lambda: self._of_window(
                stored.image[..., [stored.modalities.index(name) for name in self.modalities]],
                stored.crop_origin,
                stored.grid_shape,
            ),
        )
        return self._native(stored, found, seconds)

    def _to_read(self, case):
        """The model's modalities and, for the window of a record, the one that places that."""
        places = [name for name in REFERENCES if name in case.images][: self.cover == "window"]
        return tuple(dict.fromkeys((*self.modalities, *places)))

    def _of_grid(self, raw, corrected):
        """What the network says of the case `raw`, corrected on the grid, by the cover."""
        if self.cover == "brain":
            return self._of_brain(corrected)
        origin = self._window(raw, corrected)
        return self._of_window(
            self.recipe.network_input(corrected, origin), origin, corrected.shape[:3]
        )

    def _window(self, raw, corrected):
        """The first voxel of the window that `Recipe.apply` cuts out of all channels of `raw`."""
        place = next(name for name in REFERENCES if name in raw.modalities)
        if place in self.modalities:
            return self.recipe.window(corrected, self.modalities)
        channel = resample.volumes_to(corrected.shape[:3], _channels(raw, (place,)))
        return self.recipe.window(channel, (place,))

    def _of_brain(self, corrected):
        """By the graph, from bias-corrected volumes, float32 [X, Y, Z, C] on the grid."""
        result = self._segment(volume=tf.constant(corrected))
        # These arrays share the tensors' memory: the probabilities of a whole grid are large.
        labels, covered = np.asarray(result["labels"]), np.asarray(result["probabilities"])
        classes, faint = masks.to_classes(labels, self.scheme, "the network"), False
        if self.card.post_processing.min_enhancing_voxels and not _enhances(classes):
            classes = self._classes(covered)
            faint = _enhances(classes)
        return _OnGrid(classes, faint, covered, (0, 0, 0), self._flat(corrected))

    def _of_window(self, image, origin, shape):
        """From the preprocessed window [x, y, z, C] at `origin` of a grid of `shape`."""
        result = self._predict(image=tf.constant(image.astype(np.float32)[None]))
        covered = np.asarray(result["probabilities"])[0]
        classes = self.recipe.to_grid(self._classes(covered), origin, shape)
        kept = self.card.post_processing.without_faint_enhancement(classes)
        return _OnGrid(
            classes, _enhances(classes) and not _enhances(kept), covered, origin, self._flat(image)
        )

    def _flat(self, volumes):
        """What to say of the channels of [X, Y, Z, C] that tell the network nothing."""
        return tuple(
            f"{name} does not vary: the network sees zeros in its place"
            for name in preprocessed.flat_channels(volumes, self.modalities)
        )

    def _native(self, case, found, seconds, progress=None):
        """The `Segmentation` on the case's own grid, from an `_OnGrid`."""
        shape, post_processing = case.geometry.lps_shape, self.card.post_processing
        if found.classes.shape != shape:
            found = _timed(seconds, progress, "resampling", lambda: self._resampled(found, shape))
        classes, changes = found.classes, ()
        if not post_processing.is_off:
            classes, changes = _timed(
                seconds,
                progress,
                "post-processing",
                lambda: corrected(
                    found.classes, found.faint, post_processing, case.geometry.spacing_mm
                ),
            )
        return Segmentation(
            case.case_id,
            self.card,
            classes,
            found.covered,
            tuple(found.origin),
            case.geometry,
            changes,
            seconds,
            found.warnings,
        )

    def _resampled(self, found, shape):
        """An `_OnGrid` of another grid; what was decided of faint enhancement holds there too."""
        whole = crop.uncrop(
            found.covered, found.origin, found.classes.shape, self.card.channels.background_fill
        )
        probabilities = resample.volumes_to(shape, whole)
        return _OnGrid(
            self._classes(probabilities), found.faint, probabilities, (0, 0, 0), found.warnings
        )

    def _classes(self, probabilities):
        return self.card.channels.classes(probabilities).numpy().astype(np.uint8)


@dataclass(frozen=True)
class _OnGrid:
    """What the network says of a case.

    Attributes:
        classes: uint8 [X, Y, Z] canonical classes of the whole grid, not post-processed.
        faint: whether their enhancing tumour is too little to be one, counted on the recipe's grid.
        covered: float32 [x, y, z, K], the probabilities of the box that the network saw.
        origin: (x, y, z) of the box's first voxel.
        warnings: why it may mean little, a short text each.
    """

    classes: np.ndarray
    faint: bool
    covered: np.ndarray
    origin: tuple[int, int, int]
    warnings: tuple[str, ...]


def _channels(raw, modalities):
    """Channels of a `RawCase` by name, float32 [X, Y, Z, C]; each in one piece, as they were."""
    count = len(modalities)
    if raw.modalities[:count] == modalities:
        return raw.volumes[..., :count]
    channels = [raw.modalities.index(name) for name in modalities]
    return np.moveaxis(np.moveaxis(raw.volumes, -1, 0)[channels], 0, -1)


def _enhances(classes):
    return bool((classes == spec.ET).any())


def _processors():
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


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
