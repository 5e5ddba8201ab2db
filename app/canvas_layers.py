"""Volumes as the canvas takes them: files in memory, in the case's own order and place."""

import nibabel
import numpy as np
from isal import igzip

from app.canvas import TRUTH, Layer
from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti

PREDICTION, UNCERTAINTY = "prediction", "uncertainty"
MODALITY_TITLES = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}

_STEPS = 250
"""What the range of a scalar is shown in: a byte a voxel, a fourth of what float32 would take."""

__all__ = [
    "MODALITY_TITLES",
    "PREDICTION",
    "TRUTH",
    "UNCERTAINTY",
    "array_of",
    "image_layers",
    "label_layer",
    "scalar_layers",
    "zipped",
]


def image_layers(raw):
    """A layer for each modality of `raw` (`nifti.RawCase`); FLAIR, which shows most, first."""
    names = sorted(raw.modalities, key=lambda name: name != "flair")
    return [
        Layer(
            name,
            MODALITY_TITLES[name],
            "image",
            zipped(_narrow(raw.volumes[..., raw.modalities.index(name)]), raw.geometry),
        )
        for name in names
    ]


def label_layer(name, title, classes, geometry):
    """A layer of canonical class ids, uint8 [X, Y, Z]."""
    return Layer(name, title, "labels", zipped(classes, geometry))


def array_of(layer, geometry):
    """The voxels of a layer of this `Geometry`, LPS order: images and labels exactly as they
    were given (images of whole numbers as int16), scalars to a step."""
    image = nibabel.Nifti1Image.from_bytes(igzip.decompress(layer.nifti))
    return geometry.to_lps(np.asarray(image.dataobj))


def scalar_layers(segmentation, brain):
    """Layers of a segmentation: its entropy, and each region's probability.

    Where channels are classes, which exclude each other, a region has the sum of its classes'
    probabilities; where they are regions, a region has its own.

    Args:
        segmentation: `serving.segmentation.Segmentation`.
        brain: bool [X, Y, Z], where the entropy is shown: of the air at the borders of what the
            network sees it says nothing, and would hide the tumour's in a rendering.
    """
    channels = segmentation.card.channels
    most = (
        np.log(channels.channels)
        if channels.activation == "softmax"
        else channels.channels * np.log(2)
    )
    yield _scalar(
        UNCERTAINTY,
        "Uncertainty (nats)",
        segmentation.entropy() * brain,
        float(most),
        segmentation.geometry,
    )
    probabilities = segmentation.probabilities
    for region, members in spec.REGIONS.items():
        parts = [
            index
            for index, classes in enumerate(channels.channel_classes)
            if classes == members or (channels.activation == "softmax" and classes[0] in members)
        ]
        yield _scalar(
            f"probability_{region}",
            f"P({region})",
            sum(probabilities[..., index] for index in parts),
            1.0,
            segmentation.geometry,
        )


def zipped(array, geometry, slope=None):
    """The bytes of a .nii.gz file of an LPS `array`, in which a voxel stands for `slope` times its
    number if there is one."""
    return igzip.compress(nifti.to_bytes(array, geometry, slope), compresslevel=1, mtime=0)


def _scalar(name, title, values, most, geometry):
    steps = np.rint(values * np.float32(_STEPS / most)).astype(np.uint8)
    return Layer(name, title, "scalar", zipped(steps, geometry, most / _STEPS), (0.0, most))


def _narrow(volume):
    """`volume` as int16 where that holds every value: half the bytes to send."""
    limits = np.iinfo(np.int16)
    if volume.min() < limits.min or volume.max() > limits.max:
        return volume
    whole = volume.astype(np.int16)
    return whole if np.array_equal(whole, volume) else volume
