"""A case prepared for display, once per session."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from app import canvas, canvas_layers, intake
from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.metrics import extent


@dataclass(frozen=True)
class Scene:
    """A case with its volumes compressed, because sessions keep it even after a tab is closed.

    Attributes:
        case_id, patient_id, label_scheme, modalities, geometry: as in `nifti.RawCase`.
        digest, seconds, warnings, notes, voxels: as in `intake.LoadedCase`.
        layers: the images, and the truth if the case has one.
        truth_ml: region or class -> millilitres of the truth, or None.
        truth_extents: connected tumours of the truth.
    """

    case_id: str
    patient_id: str
    label_scheme: str
    modalities: tuple[str, ...]
    geometry: Geometry
    digest: str
    seconds: float
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    layers: tuple[canvas.Layer, ...]
    truth_ml: dict[str, float] | None
    truth_extents: tuple[extent.Extent, ...]
    voxels: Mapping[str, str]

    def volume(self, modality: str) -> np.ndarray:
        """Decompresses the image of `modality`, int16 or float32 [X, Y, Z]."""
        return self._array(modality)

    def truth(self) -> np.ndarray | None:
        """Decompresses the truth, uint8 [X, Y, Z] canonical class ids; None without a truth."""
        return None if self.truth_ml is None else self._array(canvas.TRUTH)

    def unpacked(self) -> intake.LoadedCase:
        """Restores the `LoadedCase`, except for the label values of the mask file."""
        channels = np.empty((len(self.modalities), *self.geometry.lps_shape), np.float32)
        for channel, modality in zip(channels, self.modalities):
            channel[...] = self.volume(modality)
        raw = nifti.RawCase(
            self.case_id,
            self.patient_id,
            None,
            self.label_scheme,
            self.modalities,
            np.moveaxis(channels, 0, -1),
            None,
            self.geometry,
        )
        return intake.LoadedCase(
            raw, self.truth(), self.digest, self.seconds, self.warnings, self.notes, self.voxels
        )

    @property
    def unpacked_bytes(self) -> int:
        """Peak bytes of `unpacked`: float32 channels, the truth, and one volume as it is stored."""
        return math.prod(self.geometry.lps_shape) * (4 * len(self.modalities) + 1 + 8)

    def _array(self, name):
        layer = next(layer for layer in self.layers if layer.name == name)
        return canvas_layers.array_of(layer, self.geometry)


def prepare(case: intake.LoadedCase) -> Scene:
    """Compresses the volumes of a case and measures its truth."""
    raw = case.raw
    layers = canvas_layers.image_layers(raw)
    truth_ml, extents = None, []
    if case.truth is not None:
        layers.append(canvas_layers.label_layer(canvas.TRUTH, "Truth", case.truth, raw.geometry))
        classes = spec.LABEL_SCHEMES[raw.label_scheme].classes
        truth_ml = extent.volumes_ml(
            np.bincount(case.truth.ravel(), minlength=classes), raw.geometry.spacing_mm, classes
        )
        extents = extent.extents(case.truth, raw.geometry.spacing_mm)
    return Scene(
        raw.case_id,
        raw.patient_id,
        raw.label_scheme,
        raw.modalities,
        raw.geometry,
        case.digest,
        case.seconds,
        case.warnings,
        case.notes,
        tuple(layers),
        truth_ml,
        tuple(extents),
        voxels=case.voxels,
    )
