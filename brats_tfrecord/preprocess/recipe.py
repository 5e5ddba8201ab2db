"""The recipe: the only place that says how raw volumes become network input.

Converter, exporter, evaluator and viewer hold the same object; it travels as JSON in the manifest
of a dataset and in `model.json` of a SavedModel.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from brats_tfrecord import spec
from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.preprocess import crop, masks, n4, normalize, resample
from brats_tfrecord.preprocess.preprocessed import PreprocessedCase

BIAS_CORRECTIONS = (*n4.ENGINES, "none")
BIAS_MASKS = ("positive", "get_mask")
IMAGE_DTYPES = ("float16", "float32")
CROPS = ("auto", "fixed", "brain")
RESAMPLES = ("none", "1mm")

DOCUMENTED_GRID = (240, 240, 155)
"""The grid of every BraTS release, which the documented window is made for."""

REFERENCES = ("flair", "t1ce", "t2", "t1")
"""The first of these that is at hand is the channel whose brain a window is centred on. One
channel, not their union: a model that reads some of a record's modalities sees the same window."""

POSITIVE = np.finfo(np.float32).tiny
"""What counts as positive for the brain's box: TensorFlow takes smaller values for zero."""


@dataclass(frozen=True)
class Recipe:
    """How raw volumes become network input, and what undoes it.

    Attributes:
        bias_correction: "n4" (ours), "ants" (ANTsPy) or "none".
        bias_mask: what takes part in the bias correction: "positive" voxels, or ANTs' "get_mask"
            of each volume; always only where the intensity is positive.
        crop_origin: (x, y, z) of the first voxel of the "fixed" window in LPS order.
        crop_shape: (X, Y, Z) of the window. The default window is the documented one,
            [48:192, 48:192, 5:149] of 240x240x155.
        image_dtype: how the normalised image is stored, "float16" or "float32".
        crop: where the window goes: "fixed", at `crop_origin`; "brain", centred on the brain's
            box; "auto", fixed where the grid is 240x240x155 and on the brain elsewhere.
        resample: "none", or "1mm" to bring spacings more than 5 % off 1 mm to a grid of 1 mm
            before all else; results go back to the case's own grid.
    """

    bias_correction: str = "n4"
    bias_mask: str = "positive"
    crop_origin: tuple[int, int, int] = (48, 48, 5)
    crop_shape: tuple[int, int, int] = (144, 144, 144)
    image_dtype: str = "float16"
    crop: str = "auto"
    resample: str = "none"

    def __post_init__(self):
        for name, choices in (
            ("bias_correction", BIAS_CORRECTIONS),
            ("bias_mask", BIAS_MASKS),
            ("image_dtype", IMAGE_DTYPES),
            ("crop", CROPS),
            ("resample", RESAMPLES),
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

    def to_json(self):
        """The recipe as a dict of JSON types; `from_json` gives back an equal object."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, value):
        """A recipe from `to_json`'s dict; raises InputError if it is another version's."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(value, dict) or set(value) != known:
            raise InputError(
                f"recipe: holds {sorted(value)}; this version expects "
                f"{sorted(known)}; use the version that wrote it"
            )
        return cls(**value)

    @property
    def any_spacing(self):
        """Whether it takes cases of any voxel spacing, for `nifti.read_case`."""
        return self.resample == "1mm"

    def grid_shape(self, raw):
        """(X, Y, Z) of the LPS grid that a `cohort.nifti.RawCase` is processed on.

        Raises:
            CaseError: a 1 mm grid would hold more voxels than any head scan.
        """
        shape = raw.volumes.shape[:3]
        if not self.any_spacing:
            return shape
        return resample.grid_shape(shape, raw.geometry.spacing_mm, raw.case_id)

    def correct(self, volumes, threads=1):
        """Bias-corrects every channel: float32 [X, Y, Z, C] on the grid to the same.

        With more `threads` as many channels are corrected at a time; the bits are the same.
        """
        if self.bias_correction == "none":
            return volumes
        corrected = np.empty_like(volumes, np.float32)
        # Matrix products round by the number of threads; with one, every caller gets equal bits.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(
                self._correct_channel, np.moveaxis(volumes, -1, 0), np.moveaxis(corrected, -1, 0)
            ):
                pass
        return corrected

    def _correct_channel(self, volume, out):
        # Where channels lie interleaved, one gathered once is faster in every pass.
        volume = np.ascontiguousarray(volume)
        mask = n4.get_mask(volume) if self.bias_mask == "get_mask" else None
        n4.correct_bias_field(volume, mask, engine=self.bias_correction, out=out)

    def is_fixed(self, shape):
        """Whether the window of a grid of `shape` is the one at `crop_origin`."""
        return self.crop == "fixed" or (self.crop == "auto" and tuple(shape) == DOCUMENTED_GRID)

    def window(self, volumes, modalities):
        """The first voxel (x, y, z) of the window; negative where it leaves the grid.

        Args:
            volumes: float32 [X, Y, Z, C] on the grid, bias-corrected or not: a bias field is
                positive.
            modalities: names of the channels. The brain is where the first of `REFERENCES` among
                them is positive; where it nowhere is, the grid counts as brain.
        """
        shape = volumes.shape[:3]
        if self.is_fixed(shape):
            return self.crop_origin
        reference = next(name for name in REFERENCES if name in modalities)
        brain = volumes[..., modalities.index(reference)] >= POSITIVE
        box = bounding_box(brain) if brain.any() else tuple(slice(0, size) for size in shape)
        return crop.centred(box, shape, self.crop_shape)

    def network_input(self, volumes, origin):
        """Crops and normalises bias-corrected volumes, in `image_dtype`.

        Args:
            volumes: float32 [X, Y, Z, C], LPS order, any shape; the window is zero-padded where
                it leaves the volume.
            origin: (x, y, z) of the window's first voxel, as from `window`.

        Returns:
            [*crop_shape, C]; each channel has mean 0 and deviation 1, or is zero where it does
            not vary within the window.
        """
        image = np.empty((*self.crop_shape, volumes.shape[-1]), self.image_dtype)
        for channel in range(volumes.shape[-1]):
            image[..., channel] = normalize.zscore(
                crop.crop(volumes[..., channel], origin, self.crop_shape)
            )
        return image

    def to_grid(self, window, origin, shape, fill=0):
        """Undoes the crop: [*crop_shape, ...] at `origin` to [*shape, ...], `fill` outside."""
        return crop.uncrop(window, origin, shape, fill)

    def apply(self, raw):
        """Runs the whole recipe on a `cohort.nifti.RawCase`; returns a `preprocessed.PreprocessedCase`.

        Raises:
            CaseError: the fixed window does not fit into the grid, a label value is unknown, or a
                1 mm grid would be too large.
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
        # The mask comes first: an unknown label is cheaper to find than a bias field.
        native = None if raw.mask is None else masks.to_classes(raw.mask, scheme, raw.case_id)
        volumes = resample.volumes_to(shape, raw.volumes)
        corrected = self.correct(volumes)
        origin = self.window(corrected, raw.modalities)
        return PreprocessedCase.of(
            volumes,
            native,
            scheme.classes,
            raw.modalities,
            self.network_input(corrected, origin),
            origin,
        )
