"""A synthetic head and a network with fixed weights that segments its tumour without error."""

import nibabel
import numpy as np
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.cohort.nifti import RawCase
from brats_tfrecord.pieces import Piece
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.export import export_saved_model

MODALITIES = ("flair", "t1ce", "t2")
"""Input channels: FLAIR is bright in the tumour, T1ce in its ET, T2 in its NCR."""

CASE = "BraTS20_Training_001"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
STEEPNESS = 20


def head(shape):
    """Makes an ellipsoidal brain with an eccentric tumour: NCR within ET within ED.

    Returns:
        (uint8 [X, Y, Z] canonical classes, int16 [X, Y, Z, 4] volumes in the order of
        `spec.MODALITIES`). Intensities are 100, or 300 in the classes that a modality shows, with
        noise of at most 30; 0 outside the brain.
    """
    grid = (np.indices(shape).transpose(1, 2, 3, 0) + 0.5) / shape - 0.5
    brain = np.sqrt((grid**2).sum(axis=-1)) < 0.46
    depth = np.sqrt(((grid - (0.1, -0.07, 0.04)) ** 2).sum(axis=-1)) / 0.27
    classes = np.select(
        [depth < 0.45, depth < 0.75, depth < 1], [spec.NCR, spec.ET, spec.ED]
    ).astype(np.uint8)
    bright = {"t1": (), "t1ce": (spec.ET,), "t2": (spec.NCR,), "flair": (1, 2, 3)}
    noise = np.random.default_rng(0).integers(-30, 31, (*shape, len(spec.MODALITIES)))
    volumes = np.stack([100 + 200 * np.isin(classes, bright[name]) for name in spec.MODALITIES], -1)
    return classes, ((volumes + noise) * brain[..., None]).astype(np.int16)


def raw_case(shape, affine=LPS):
    """Returns (classes, `RawCase`) of `head(shape)`, as if read from files with `affine`."""
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
    """Exports a network that segments `raw` by thresholds on its z-scores; returns `path`."""
    image = recipe.apply(raw).image.astype(np.float32)
    cuts = {name: _halfway(image[..., spec.MODALITIES.index(name)]) for name in MODALITIES}
    return save_thresholds(path, recipe, cuts, **fields)


def save_thresholds(path, recipe, cuts, edge=1, **fields):
    """Exports a network that thresholds z-scores; returns `path`.

    Args:
        path: folder to write.
        recipe: recipe of the model.
        cuts: modality -> threshold.
        edge: z-scores are averaged over cubes of this many voxels along each edge.
        fields: further fields of the model card.
    """
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
    """Makes the card of a network of one convolution; `fields` replace its defaults."""
    defaults = {
        "recipe": recipe,
        "modalities": modalities,
        "label_scheme": "brats2020",
        "targets": "classes",
        "piece": Piece((128, 128, 128), 4, 200**3),
        "dataset_fingerprint": "f" * 64,
        "train_case_ids": (),
        "select_case_ids": (),
        "training": {},
    }
    return ModelCard(**{**defaults, **fields})


def convolution(kernel, bias):
    """Makes a network of one convolution, with kernel [n, n, n, C, K], and softmax."""
    inputs = tf.keras.Input((None, None, None, kernel.shape[3]))
    outputs = tf.keras.layers.Conv3D(len(bias), len(kernel), padding="same", activation="softmax")(
        inputs
    )
    network = tf.keras.Model(inputs, outputs)
    network.set_weights([kernel, bias])
    return network


def _halfway(channel):
    """Returns the z-score of intensity 200; the range of intensities is about 0 … 330."""
    return float(channel.min() + (channel.max() - channel.min()) * 200 / 330)
