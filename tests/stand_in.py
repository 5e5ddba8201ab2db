"""A head made by hand, and a network made by hand that finds its tumour, voxel for voxel."""

import nibabel
import numpy as np
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts
from brats_tfrecord.cohort.geometry import Geometry, RawCase
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.export import export_saved_model

MODALITIES = ("flair", "t1ce", "t2")
"""What the network reads: FLAIR tells tumour, T1ce enhancement in it, T2 necrosis."""

CASE = "BraTS20_Training_001"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
STEEPNESS = 20


def head(shape):
    """An ellipsoid of a brain; in it, off the middle, NCR within ET within ED.

    Returns:
        (uint8 [X, Y, Z] canonical classes, int16 [X, Y, Z, 4] volumes as in `spec.MODALITIES`: of
        about 100, and about 300 where there is something to see, with noise of at most 30).
    """
    grid = (np.indices(shape).transpose(1, 2, 3, 0) + 0.5) / shape - 0.5
    brain = np.sqrt((grid**2).sum(axis=-1)) < 0.46
    depth = np.sqrt(((grid - (0.1, -0.07, 0.04)) ** 2).sum(axis=-1)) / 0.27
    classes = np.select(
        [depth < 0.45, depth < 0.75, depth < 1], [spec.NCR, spec.ET, spec.ED]
    ).astype(np.uint8)
    seen = {"t1": (), "t1ce": (spec.ET,), "t2": (spec.NCR,), "flair": (1, 2, 3)}
    noise = np.random.default_rng(0).integers(-30, 31, (*shape, len(spec.MODALITIES)))
    volumes = np.stack([100 + 200 * np.isin(classes, seen[name]) for name in spec.MODALITIES], -1)
    return classes, ((volumes + noise) * brain[..., None]).astype(np.int16)


def raw_case(shape, affine=LPS):
    """(classes, `RawCase`) of `head(shape)` as if read from files of `affine` in LPS order."""
    classes, volumes = head(shape)
    geometry = Geometry(tuple(shape), np.asarray(affine, float))
    channels = np.ascontiguousarray(np.moveaxis(volumes, -1, 0), np.float32)
    values = np.asarray(spec.LABEL_SCHEMES["brats2020"].values, np.int16)[classes]
    return classes, RawCase(
        CASE,
        CASE,
        None,
        "brats2020",
        spec.MODALITIES,
        np.moveaxis(channels, 0, -1),
        values,
        geometry,
    )


def write_case(root, volumes, affine=LPS):
    """Writes volumes [X, Y, Z, 4] as a cohort of one case; returns the `Case`."""
    folder = root / CASE
    folder.mkdir(parents=True)
    for channel, name in enumerate(spec.MODALITIES):
        nibabel.save(
            nibabel.Nifti1Image(volumes[..., channel], affine), folder / f"{CASE}_{name}.nii.gz"
        )
    return layouts.find_cases(root)[0]


def save_model(path, recipe, raw, **fields):
    """Saves the network that tells the classes of `raw` by its z-scores; returns `path`."""
    image = recipe.apply(raw).image.astype(np.float32)
    cuts = {name: _halfway(image[..., spec.MODALITIES.index(name)]) for name in MODALITIES}
    return save_thresholds(path, recipe, cuts, **fields)


def save_thresholds(path, recipe, cuts, edge=1, **fields):
    """Saves a network of `MODALITIES` that cuts their z-scores, each the mean of a cube of `edge`
    voxels, at `cuts`; returns `path`."""
    kernel, bias = np.zeros((*(edge,) * 3, len(MODALITIES), 4), np.float32), np.zeros(4, np.float32)
    for class_id, names in (
        (spec.ED, ("flair",)),
        (spec.ET, ("flair", "t1ce")),
        (spec.NCR, ("flair", "t2")),
    ):
        for name in names:
            kernel[..., MODALITIES.index(name), class_id] = STEEPNESS / edge**3
            bias[class_id] -= STEEPNESS * cuts[name]
    export_saved_model(convolution(kernel, bias), model_card(recipe, **fields), path)
    return path


def model_card(recipe, modalities=MODALITIES, **fields):
    """The card of a network of one convolution."""
    return ModelCard(
        recipe, modalities, "brats2020", "classes", 4, 200**3, "f" * 64, (), (), {}, **fields
    )


def convolution(kernel, bias):
    """A network of one convolution, kernel [n, n, n, C, K], and softmax."""
    inputs = tf.keras.Input((None, None, None, kernel.shape[3]))
    outputs = tf.keras.layers.Conv3D(len(bias), len(kernel), padding="same", activation="softmax")(
        inputs
    )
    network = tf.keras.Model(inputs, outputs)
    network.set_weights([kernel, bias])
    return network


def _halfway(channel):
    """The z-score of intensity 200, where 0 is the lowest there is and 330 nearly the highest."""
    return float(channel.min() + (channel.max() - channel.min()) * 200 / 330)
