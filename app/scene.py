"""A case prepared for showing: what is made once and serves every run of the page's script."""

from dataclasses import dataclass

import canvas
import intake
import layers
import numpy as np

from brats_tfrecord import spec
from brats_tfrecord.metrics import extent


@dataclass(frozen=True)
class Scene:
    """A case in memory and its files for the canvas.

    Attributes:
        case: `intake.LoadedCase`.
        layers: its images, and its truth if there is one.
        truth_ml: region or class -> millilitres of the truth, or None.
        truth_extents: connected tumours of the truth.
    """

    case: intake.LoadedCase
    layers: tuple[canvas.Layer, ...]
    truth_ml: dict[str, float] | None
    truth_extents: tuple[extent.Extent, ...]


def prepare(case):
    """The `Scene` of an `intake.LoadedCase`."""
    raw = case.raw
    shown, truth_ml, extents = layers.image_layers(raw), None, ()
    if case.truth is not None:
        shown.append(layers.label_layer(layers.TRUTH, "Truth", case.truth, raw.geometry))
        classes = spec.LABEL_SCHEMES[raw.label_scheme].classes
        truth_ml = extent.volumes_ml(np.bincount(case.truth.ravel(), minlength=classes),
                                     raw.geometry.spacing_mm, classes)
        extents = tuple(extent.extents(case.truth, raw.geometry.spacing_mm))
    return Scene(case, tuple(shown), truth_ml, extents)
