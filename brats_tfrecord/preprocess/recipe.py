"""The recipe: all settings and steps of preprocessing, from raw volumes to network input.

Conversion, export, evaluation and the viewer use the same `Recipe`. It is stored as JSON in the
manifest of a dataset and in the `model.json` of a SavedModel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from brats_tfrecord import spec
from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.cohort.nifti import RawCase
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.preprocess import crop, masks, n4, normalize, resample
from brats_tfrecord.preprocess.preprocessed import PreprocessedCase

BIAS_CORRECTIONS = (*n4.ENGINES, "none")
BIAS_MASKS = ("positive", "get_mask")
IMAGE_DTYPES = ("float16", "float32")
CROPS = ("auto", "fixed", "brain")
RESAMPLES = ("none", "1mm")

REFERENCES = ("flair", "t1ce", "t2", "t1")
"""The window is centred on the brain of the first of these modalities that the case has. It is a
single modality, so that models that use different modalities of one dataset get the same window."""

_LATER = {"normalize"}
"""Fields that the first recipes on disk do not have."""

POSITIVE = np.finfo(np.float32).tiny
"""Smallest intensity of brain voxels. TensorFlow treats smaller, denormal numbers as zero."""


@dataclass(frozen=True)
class Recipe:
    """The preprocessing of a case: resampling, bias correction, crop and normalisation.

    A recipe holds the settings of every step that turns raw volumes into network input, applies
    them, and inverts the crop.

    The documented recipe is the preprocessing of the student project that this toolkit grew from:
    N4 bias correction with the mask of ANTsPy's `get_mask`, the crop [48:192, 48:192, 5:149] of
    240 x 240 x 155 voxels, and the z-score of each channel over the crop. It is
    `Recipe(bias_correction="ants", bias_mask="get_mask", crop="fixed")`.

    Attributes:
        bias_correction: "n4" (`preprocess.n4`), "ants" (ANTsPy) or "none".
        bias_mask: voxels that the bias field is fitted to and that are corrected: "positive"
            voxels, or the "get_mask" of ANTsPy of each volume, restricted to positive voxels.
        crop_origin: (x, y, z) of the first voxel of the "fixed" window in LPS order.
        crop_shape: (X, Y, Z) of the window. The default window is that of the documented recipe.
        image_dtype: dtype of the stored image, "float16" or "float32".
        crop: position of the window. "fixed": at `crop_origin`. "brain": centred on the bounding
            box of the brain. "auto": "fixed" if the grid has 240 x 240 x 155 voxels, else "brain".
        resample: "none", or "1mm" to resample cases with a spacing more than 5 % off 1 mm to a
            grid of 1 mm before all other steps. Results are resampled back.
        normalize: voxels of the window whose mean and deviation the z-score of a channel takes:
            all of them ("crop"), or those that are not 0 ("brain"); the others then stay 0.
    """

    bias_correction: str = "n4"
    bias_mask: str = "positive"
    crop_origin: tuple[int, int, int] = (48, 48, 5)
    crop_shape: tuple[int, int, int] = (144, 144, 144)
    image_dtype: str = "float16"
    crop: str = "auto"
    resample: str = "none"
    normalize: str = "crop"

    def __post_init__(self):
        for name, choices in (
            ("bias_correction", BIAS_CORRECTIONS),
            ("bias_mask", BIAS_MASKS),
            ("image_dtype", IMAGE_DTYPES),
            ("crop", CROPS),
            ("resample", RESAMPLES),
            ("normalize", normalize.REGIONS),
        ):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"recipe: {name} is {getattr(self, name)!r}; expected one of "
                    f"{', '.join(choices)}"
                )
        for name in ("crop_origin", "crop_shape"):
            object.__setattr__(self, name, tuple(int(v) for v in getattr(self, name)))
            if len(getattr(self, name)) != 3:
                raise InputError(
                    f"recipe: {name} is {getattr(self, name)}; expected three whole numbers"
                )
        if min(self.crop_shape) < 1:
            raise InputError(
                f"recipe: crop_shape is {self.crop_shape}; expected at least one voxel an axis"
            )

    def to_json(self) -> dict[str, Any]:
        """Returns the recipe as a dict of JSON types, the inverse of `from_json`.

        Fields in `_LATER` are left out if they have their default, as versions without them did.
        """
        defaults = complete({})
        return {name: x for name, x in self.settings().items() if (name, x) not in defaults.items()}

    def settings(self) -> dict[str, Any]:
        """Returns all fields as JSON types."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Recipe:
        """Restores a recipe from the dict of `to_json`.

        Raises:
            InputError: the dict was written by another version, or a value is not valid.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(value, dict) or not known - _LATER <= set(value) <= known:
            raise InputError(
                f"recipe: holds {sorted(value)}; this version expects "
                f"{sorted(known)}; use the version that wrote it"
            )
        return cls(**value)

    @property
    def any_spacing(self) -> bool:
        """Whether cases of any voxel spacing are accepted (an argument of `nifti.read_case`)."""
        return self.resample == "1mm"

    def grid_shape(self, raw: RawCase) -> tuple[int, ...]:
        """Returns the shape (X, Y, Z) of the LPS grid that a case is processed on.

        Raises:
            CaseError: a 1 mm grid would hold more voxels than any head scan.
        """
        shape = raw.volumes.shape[:3]
        if not self.any_spacing:
            return shape
        return resample.grid_shape(shape, raw.geometry.spacing_mm, raw.case_id)

    def correct(self, volumes: np.ndarray, threads: int = 1) -> np.ndarray:
        """Corrects the bias field of every channel.

        Args:
            volumes: float32 [X, Y, Z, C] on the grid.
            threads: number of channels to correct at the same time. It does not change the result.

        Returns:
            float32 [X, Y, Z, C]; `volumes` itself if `bias_correction` is "none". A channel that
            is 0 everywhere, such as that of a missing modality, is returned as it is.
        """
        if self.bias_correction == "none":
            return volumes
        corrected = np.empty_like(volumes, np.float32)
        # The rounding of matrix products depends on the number of BLAS threads. With one thread,
        # every caller gets the same bits.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(
                self._correct_channel, np.moveaxis(volumes, -1, 0), np.moveaxis(corrected, -1, 0)
            ):
                pass
        return corrected

    def _correct_channel(self, volume, out):
        # Every pass over the volume is faster if the channel is contiguous in memory.
        volume = np.ascontiguousarray(volume)
        if not volume.any():
            out[...] = 0
            return
        mask = n4.get_mask(volume) if self.bias_mask == "get_mask" else None
        n4.correct_bias_field(volume, mask, engine=self.bias_correction, out=out)

    def is_fixed(self, shape: Sequence[int]) -> bool:
        """Returns whether the window of a grid of `shape` is at `crop_origin`."""
        return self.crop == "fixed" or (self.crop == "auto" and tuple(shape) == spec.BRATS_GRID)

    def window(self, volumes: np.ndarray, modalities: Sequence[str]) -> tuple[int, ...]:
        """Computes the position of the window.

        The brain is the positive part of the first modality of `REFERENCES` that is positive
        anywhere, which the channel of a missing modality is not, or the whole grid if none is.

        Args:
            volumes: float32 [X, Y, Z, C] on the grid. Bias correction may come before or after,
                because it does not change which voxels are positive.
            modalities: names of the channels.

        Returns:
            (x, y, z) of the window's first voxel; negative where the window extends beyond the
            grid.
        """
        shape = volumes.shape[:3]
        if self.is_fixed(shape):
            return self.crop_origin
        box = _brain_box(volumes, modalities) or tuple(slice(0, size) for size in shape)
        return crop.centred(box, shape, self.crop_shape)

    def covering_box(
        self, volumes: np.ndarray, modalities: Sequence[str], origin: Sequence[int], alignment: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Extends the window until it contains the brain.

        A side is extended only if brain lies beyond it, and by a multiple of `alignment`. A
        network that sees the whole image then pools the window's voxels in the same groups as it
        would without the extension, and sees the head around them instead of padding.

        Args:
            volumes: float32 [X, Y, Z, C] on the grid.
            modalities: names of the channels; the brain is that of `window`.
            origin: (x, y, z) of the window's first voxel.
            alignment: `pieces.Piece.alignment` of the network.

        Returns:
            ((x, y, z) first voxel, (X, Y, Z) extents) of the box, which may leave the grid by
            less than `alignment` more than the window does; the window itself without brain.
        """
        brain = _brain_box(volumes, modalities)
        if brain is None:
            return tuple(origin), self.crop_shape
        low, extents = [], []
        for side, first, size in zip(brain, origin, self.crop_shape):
            before = -(-max(first - side.start, 0) // alignment) * alignment
            behind = -(-max(side.stop - first - size, 0) // alignment) * alignment
            low.append(first - before)
            extents.append(before + size + behind)
        return tuple(low), tuple(extents)

    def network_input(
        self,
        volumes: np.ndarray,
        origin: Sequence[int],
        box: tuple[Sequence[int], Sequence[int]] | None = None,
    ) -> np.ndarray:
        """Crops and normalises bias-corrected volumes.

        Args:
            volumes: float32 [X, Y, Z, C] in LPS order, of any shape; zero outside.
            origin: (x, y, z) of the window's first voxel, as returned by `window`.
            box: (first voxel, extents) of the crop, as returned by `covering_box`; the window if
                None.

        Returns:
            [*extents, C] in `image_dtype`. Each channel has mean 0 and standard deviation 1 over
            the voxels of the window that `normalize` says, or is 0 if it is constant there.
        """
        window = (tuple(origin), self.crop_shape)
        box = window if box is None else box
        image = np.empty((*box[1], volumes.shape[-1]), self.image_dtype)
        for channel in range(volumes.shape[-1]):
            volume = volumes[..., channel]
            reference = crop.crop(volume, *window)
            cut = reference if box == window else crop.crop(volume, *box)
            image[..., channel] = normalize.zscore(cut, reference, self.normalize)
        return image

    def to_grid(
        self,
        window: np.ndarray,
        origin: Sequence[int],
        shape: Sequence[int],
        fill: float | Sequence[float] = 0,
    ) -> np.ndarray:
        """Inverts the crop: puts [*crop_shape, ...] at `origin` into [*shape, ...] of `fill`."""
        return crop.uncrop(window, origin, shape, fill)

    def apply(self, raw: RawCase) -> PreprocessedCase:
        """Preprocesses a case.

        Raises:
            CaseError: the fixed window does not fit into the grid, a label value is unknown, or
                the 1 mm grid would be too large.
        """
        shape = self.grid_shape(raw)
        if self.is_fixed(shape) and not crop.fits(shape, self.crop_origin, self.crop_shape):
            window = ",".join(
                f"{first}:{first + size}" for first, size in zip(self.crop_origin, self.crop_shape)
            )
            raise CaseError(
                f"{raw.case_id}: the crop window {window} does not fit into its "
                f"{'x'.join(map(str, shape))} voxels; give --crop=brain, or a "
                "--crop_window that does"
            )
        scheme = spec.LABEL_SCHEMES[raw.label_scheme]
        # Unknown labels are reported before the bias correction, which takes much longer.
        native = None if raw.mask is None else masks.to_classes(raw.mask, scheme, raw.case_id)
        volumes = resample.volumes_to(shape, raw.volumes)
        corrected = self.correct(volumes)
        origin = self.window(corrected, raw.modalities)
        return PreprocessedCase.from_volumes(
            volumes,
            native,
            scheme.classes,
            raw.modalities,
            self.network_input(corrected, origin),
            origin,
            raw.missing,
        )


def complete(value: dict[str, Any]) -> dict[str, Any]:
    """Adds to the JSON of a recipe the defaults that `Recipe.to_json` leaves out."""
    return {name: getattr(Recipe, name) for name in _LATER} | value


def find_brain(volumes: np.ndarray, modalities: Sequence[str]) -> tuple[str, np.ndarray] | None:
    """Finds the brain: the positive part of the first of `REFERENCES` that is positive anywhere.

    Args:
        volumes: float32 [X, Y, Z, C].
        modalities: names of the channels.

    Returns:
        (name of the modality, bool [X, Y, Z]); None if no modality is positive anywhere.
    """
    for name in REFERENCES:
        if name in modalities:
            brain = volumes[..., modalities.index(name)] >= POSITIVE
            if brain.any():
                return name, brain
    return None


def _brain_box(volumes, modalities):
    """Returns the box of the brain, one slice per axis; None without brain."""
    found = find_brain(volumes, modalities)
    return bounding_box(found[1]) if found else None
