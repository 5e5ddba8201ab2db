"""The recipe: the only place that says how raw volumes become network input.

Converter, exporter, evaluator and viewer hold the same object; it travels as JSON in the manifest
of a dataset and in `model.json` of a SavedModel.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from brats_tfrecord import spec
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.preprocess import crop, masks, n4, normalize

BIAS_CORRECTIONS = (*n4.ENGINES, "none")
BIAS_MASKS = ("positive", "get_mask")
IMAGE_DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class Recipe:
    """How raw volumes become network input, and what undoes it.

    Attributes:
        bias_correction: "n4" (ours), "ants" (ANTsPy) or "none".
        bias_mask: what takes part in the bias correction: "positive" voxels, or ANTs' "get_mask"
            of each volume; always only where the intensity is positive.
        crop_origin: (x, y, z) of the window's first voxel in LPS order.
        crop_shape: (X, Y, Z) of the window. The default window is the documented one,
            [48:192, 48:192, 5:149] of 240x240x155.
        image_dtype: how the normalised image is stored, "float16" or "float32".
    """

    bias_correction: str = "n4"
    bias_mask: str = "positive"
    crop_origin: tuple[int, int, int] = (48, 48, 5)
    crop_shape: tuple[int, int, int] = (144, 144, 144)
    image_dtype: str = "float16"

    def __post_init__(self):
        for name, choices in (("bias_correction", BIAS_CORRECTIONS), ("bias_mask", BIAS_MASKS),
                              ("image_dtype", IMAGE_DTYPES)):
            if getattr(self, name) not in choices:
                raise InputError(f"recipe: {name} is {getattr(self, name)!r}; expected one of "
                                 f"{', '.join(choices)}")
        for name in ("crop_origin", "crop_shape"):
            object.__setattr__(self, name, tuple(int(v) for v in getattr(self, name)))
            if len(getattr(self, name)) != 3:
                raise InputError(f"recipe: {name} is {getattr(self, name)}; expected three "
                                 "whole numbers")
        if min(self.crop_shape) < 1:
            raise InputError(f"recipe: crop_shape is {self.crop_shape}; expected at least one "
                             "voxel an axis")

    def to_json(self):
        """The recipe as a dict of JSON types; `from_json` gives back an equal object."""
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, value):
        """A recipe from `to_json`'s dict; raises InputError if it is another version's."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(value, dict) or set(value) != known:
            raise InputError(f"recipe: holds {sorted(value)}; this version expects "
                             f"{sorted(known)}; use the version that wrote it")
        return cls(**value)

    def correct(self, volumes):
        """Bias-corrects every channel: float32 [X, Y, Z, C] to the same."""
        if self.bias_correction == "none":
            return volumes
        corrected = np.empty_like(volumes, np.float32)
        find_mask = n4.get_mask if self.bias_mask == "get_mask" else n4.positive_mask
        # Matrix products round by the number of threads; with one, every caller gets equal bits.
        with threadpool_limits(1, "blas"):
            for channel in range(volumes.shape[-1]):
                volume = volumes[..., channel]
                corrected[..., channel] = n4.correct_bias_field(
                    volume, find_mask(volume), engine=self.bias_correction)
        return corrected

    def network_input(self, volumes):
        """Crops and normalises bias-corrected volumes, in `image_dtype`.

        Args:
            volumes: float32 [X, Y, Z, C], LPS order, any shape; the window is zero-padded where
                it leaves the volume.

        Returns:
            [*crop_shape, C]; each channel has mean 0 and deviation 1, or is zero where it does
            not vary within the window.
        """
        image = np.empty((*self.crop_shape, volumes.shape[-1]), self.image_dtype)
        for channel in range(volumes.shape[-1]):
            window = crop.crop(volumes[..., channel], self.crop_origin, self.crop_shape)
            image[..., channel] = normalize.zscore(window)
        return image

    def to_native(self, window, shape, fill=0):
        """Undoes the crop: [*crop_shape, ...] to [*shape, ...] with `fill` outside."""
        return crop.uncrop(window, self.crop_origin, shape, fill)

    def apply(self, raw):
        """Runs the whole recipe on a `cohort.nifti.RawCase`; returns a `Preprocessed`.

        Raises:
            CaseError: the window does not fit into the volume, or a label value is unknown.
        """
        shape = raw.volumes.shape[:3]
        if not crop.fits(shape, self.crop_origin, self.crop_shape):
            window = ",".join(f"{first}:{first + size}" for first, size
                              in zip(self.crop_origin, self.crop_shape))
            raise CaseError(f"{raw.case_id}: the crop window {window} does not fit into its "
                            f"{'x'.join(map(str, shape))} voxels; give a --crop_window that does")
        scheme = spec.LABEL_SCHEMES[raw.label_scheme]
        # The mask comes first: an unknown label is cheaper to find than a bias field.
        classes = None if raw.mask is None else masks.to_classes(raw.mask, scheme, raw.case_id)
        image = self.network_input(self.correct(raw.volumes))
        return Preprocessed.of(self, raw, image, classes)


@dataclass(frozen=True)
class Preprocessed:
    """What a recipe makes of a case.

    Attributes:
        image: [*crop_shape, C] in the recipe's image dtype.
        classes: uint8 [*crop_shape] canonical classes, or None for an unlabelled case.
        outside_index: int32 [N, 3], LPS indices in the uncropped grid of tumour voxels that the
            window cuts off, so that the truth never is.
        outside_classes: uint8 [N], their classes.
        brain_voxels, brain_voxels_lost: voxels where any modality is positive; those outside the
            window.
        class_voxels: voxels of each class in the uncropped mask; empty if unlabelled.
        warnings: what a person should know of this case.
    """

    image: np.ndarray
    classes: np.ndarray | None
    outside_index: np.ndarray
    outside_classes: np.ndarray
    brain_voxels: int
    brain_voxels_lost: int
    class_voxels: tuple[int, ...]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, recipe, raw, image, classes):
        """Gathers the window of the mask and the ledger of what the crop cost."""
        shape = raw.volumes.shape[:3]
        outside = crop.outside(shape, recipe.crop_origin, recipe.crop_shape)
        brain = (raw.volumes > 0).any(axis=-1)
        index, window, class_voxels = np.zeros((0, 3), np.int32), None, ()
        if classes is not None:
            index = np.argwhere(outside & (classes > 0)).astype(np.int32)
            window = crop.crop(classes, recipe.crop_origin, recipe.crop_shape)
            count = spec.LABEL_SCHEMES[raw.label_scheme].classes
            class_voxels = tuple(np.bincount(classes.ravel(), minlength=count).tolist())
        flat = [name for channel, name in enumerate(raw.modalities)
                if not image[..., channel].any()]
        return cls(
            image=image,
            classes=window,
            outside_index=index,
            outside_classes=(np.zeros(0, np.uint8) if classes is None
                             else classes[tuple(index.T)]),
            brain_voxels=int(brain.sum()),
            brain_voxels_lost=int((brain & outside).sum()),
            class_voxels=class_voxels,
            warnings=tuple(f"{name} does not vary within the crop; stored as zeros"
                           for name in flat),
        )
