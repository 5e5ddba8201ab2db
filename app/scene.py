"""A case prepared for showing: what is made once and serves every run of the page's script."""

from dataclasses import dataclass

import numpy as np

from app import canvas, canvas_layers, intake
from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.metrics import extent


@dataclass(frozen=True)
class Scene:
    """A case as a session keeps it, closed tabs for a while too: its volumes lie compressed.

    Attributes:
        case_id, patient_id, label_scheme, modalities, geometry: as in `nifti.RawCase`.
        digest, seconds, warnings: as in `intake.LoadedCase`.
        layers: its images, and its truth if there is one.
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
    canvas_layers: tuple[canvas.Layer, ...]
    truth_ml: dict[str, float] | None
    truth_extents: tuple[extent.Extent, ...]

    def volume(self, modality):
        """The image of `modality`, int16 or float32 [X, Y, Z]."""
        return self._array(modality)

    def truth(self):
        """uint8 [X, Y, Z] canonical class ids, or None without a truth."""
        return None if self.truth_ml is None else self._array(canvas_layers.TRUTH)

    def unpacked(self):
        """The `intake.LoadedCase` that it was made of, without the mask's own label values."""
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
        return intake.LoadedCase(raw, self.truth(), self.digest, self.seconds, self.warnings)

    def _array(self, name):
        layer = next(layer for layer in self.layers if layer.name == name)
        return canvas_layers.array_of(layer, self.geometry)


def prepare(case):
    """The `Scene` of an `intake.LoadedCase`."""
    raw = case.raw
    shown, truth_ml, extents = canvas_layers.image_layers(raw), None, ()
    if case.truth is not None:
        shown.append(
            canvas_layers.label_layer(canvas_layers.TRUTH, "Truth", case.truth, raw.geometry)
        )
        classes = spec.LABEL_SCHEMES[raw.label_scheme].classes
        truth_ml = extent.volumes_ml(
            np.bincount(case.truth.ravel(), minlength=classes), raw.geometry.spacing_mm, classes
        )
        extents = tuple(extent.extents(case.truth, raw.geometry.spacing_mm))
    return Scene(
        raw.case_id,
        raw.patient_id,
        raw.label_scheme,
        raw.modalities,
        raw.geometry,
        case.digest,
        case.seconds,
        case.warnings,
        tuple(shown),
        truth_ml,
        extents,
    )
