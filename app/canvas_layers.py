"""Converts volumes to layers of the canvas: compressed NIfTI files in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import nibabel
import numpy as np
from isal import igzip

from app.canvas import Layer
from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.cohort.geometry import Geometry

if TYPE_CHECKING:  # imports TensorFlow, which takes seconds
    from brats_tfrecord.serving.segmentation import Segmentation

PREDICTION, UNCERTAINTY = "prediction", "uncertainty"
"""Names of layers."""

MODALITY_TITLES = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}

_STEPS = 250
"""Scalars are quantised to this many steps: one byte per voxel instead of float32's four."""


def image_layers(raw: nifti.RawCase) -> list[Layer]:
    """Makes a layer of each modality; FLAIR, which shows the whole tumour best, comes first."""
    names = sorted(raw.modalities, key=lambda name: name != "flair")
    return [
        Layer(
            name,
            MODALITY_TITLES[name],
            "image",
            zipped(_as_int16(raw.volumes[..., raw.modalities.index(name)]), raw.geometry),
        )
        for name in names
    ]


def label_layer(name: str, title: str, classes: np.ndarray, geometry: Geometry) -> Layer:
    """Makes a layer of canonical class ids, uint8 [X, Y, Z]."""
    return Layer(name, title, "labels", zipped(classes, geometry))


def array_of(layer: Layer, geometry: Geometry) -> np.ndarray:
    """Decompresses a layer to [X, Y, Z], LPS order.

    Images and labels have their exact values, whole-numbered images as int16; scalars are rounded
    to one of 250 steps.
    """
    image = nibabel.Nifti1Image.from_bytes(igzip.decompress(layer.nifti))
    return geometry.to_lps(np.asarray(image.dataobj))


def scalar_layers(segmentation: Segmentation, brain: np.ndarray) -> Iterator[Layer]:
    """Yields the layers of the entropy and of each region's probability.

    If the channels are exclusive classes (softmax), the probability of a region is the sum of its
    classes' probabilities; if they are regions, each has its own channel.

    Args:
        segmentation: the output of the model.
        brain: bool [X, Y, Z]. The entropy is set to zero outside: the air at the edges of the
            network's input has a high entropy, which would hide the tumour's in a rendering.
    """
    channels = segmentation.card.channels
    maximum = (
        np.log(channels.channels)
        if channels.activation == "softmax"
        else channels.channels * np.log(2)
    )
    yield _scalar_layer(
        UNCERTAINTY,
        "Uncertainty (nats)",
        segmentation.entropy() * brain,
        float(maximum),
        segmentation.geometry,
    )
    probabilities = segmentation.probabilities
    for region, members in spec.REGIONS.items():
        indices = [
            index
            for index, classes in enumerate(channels.channel_classes)
            if classes == members or (channels.activation == "softmax" and classes[0] in members)
        ]
        yield _scalar_layer(
            f"probability_{region}",
            f"P({region})",
            sum(probabilities[..., index] for index in indices),
            1.0,
            segmentation.geometry,
        )


def zipped(array: np.ndarray, geometry: Geometry, slope: float | None = None) -> bytes:
    """Compresses an LPS array [X, Y, Z] to the bytes of a .nii.gz file.

    Args:
        array: the stored voxels.
        geometry: geometry of the file.
        slope: value of a stored 1, or None for unscaled voxels.
    """
    return igzip.compress(nifti.to_bytes(array, geometry, slope), compresslevel=1, mtime=0)


def _scalar_layer(name, title, values, maximum, geometry):
    steps = np.rint(values * np.float32(_STEPS / maximum)).astype(np.uint8)
    return Layer(name, title, "scalar", zipped(steps, geometry, maximum / _STEPS), (0.0, maximum))


def _as_int16(volume):
    """Returns `volume` as int16 if that changes no value, which halves the bytes to send."""
    limits = np.iinfo(np.int16)
    if volume.min() < limits.min or volume.max() > limits.max:
        return volume
    whole = volume.astype(np.int16)
    return whole if np.array_equal(whole, volume) else volume
