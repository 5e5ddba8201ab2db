"""The golden case: an input and its answer that travel with a model, to prove it on arrival.

`assets/golden.npz` holds `image` float32 [1, X, Y, Z, C], `probabilities` float32 [1, X, Y, Z, K],
what the networks answered to it before they were exported, and `card`, the card's digest.
`model.json` holds the file's SHA-256. So none of the three, graph and weights, golden case and
card, can change without another showing it.
"""

import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from brats_tfrecord import files
from brats_tfrecord.errors import InputError

FILE_NAME = "golden.npz"

TOLERANCE = 1e-2
"""How far a probability may be off on another machine. CPUs differ by some 1e-5; GPUs that round
a convolution's factors to 10 bits (TF32) by some 1e-3; another network by far more."""

EXPORT_TOLERANCE = 1e-5
"""How far it may be off on the machine that exported the model."""

_LEAST = 8


def image(card):
    """A deterministic input for the model of a `ModelCard`.

    A head in z-scores: darker surroundings, a brain, in it a bright ball, off the middle, and
    noise, every channel of another contrast. One, two and nearly three strides long (of at least
    8 voxels), so that no two axes are alike and one needs padding.

    Returns:
        float32 [1, X, Y, Z, C].
    """
    unit = -(-_LEAST // card.stride) * card.stride
    shape, channels = (unit, 2 * unit, 3 * unit - 1), len(card.modalities)
    place = [(np.arange(n) + 0.5) / n for n in shape]
    x, y, z = np.meshgrid(*place, indexing="ij")
    head = ((x - 0.5) ** 2 + (y - 0.5) ** 2 + (z - 0.5) ** 2 < 0.45**2)[..., None]
    ball = ((x - 0.6) ** 2 + (y - 0.4) ** 2 + (z - 0.65) ** 2 < 0.2**2)[..., None]
    contrast = 1 + np.arange(channels)
    noise = np.random.default_rng(0).standard_normal((*shape, channels))
    return (head - 0.7 + ball * contrast + 0.2 * noise).astype(np.float32)[None]


def write(path, image, probabilities, card):
    """Writes a golden case: float32 [1, X, Y, Z, C] and [1, X, Y, Z, K], and whose it is."""
    np.savez(path, image=image, probabilities=probabilities, card=np.array(card.digest))


def check(predict, model_dir, card):
    """Proves that a model is whole, and that it answers here what it answered where it was made.

    Args:
        predict: its loaded signature `serving_default`.
        model_dir: its folder.
        card: its `ModelCard`, as read from there.

    Raises:
        InputError: an asset is missing or altered, the card is, or a probability of the golden
            case differs by more than `TOLERANCE`.
    """
    folder = Path(model_dir) / "assets"
    for name in {FILE_NAME, *card.assets}:
        _require_unaltered(folder / name, card.assets.get(name))
    try:
        with np.load(folder / FILE_NAME, allow_pickle=False) as stored:
            image, expected, digest = (stored[n] for n in ("image", "probabilities", "card"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{folder / FILE_NAME}: is not a golden case ({error}); copy or export the model again"
        ) from error
    if digest != card.digest:
        raise InputError(
            f"{folder / 'model.json'}: was altered, or is another model's; copy or "
            "export the model again"
        )
    off = _difference(predict, image, expected, model_dir)
    if not off <= TOLERANCE:
        raise InputError(
            f"{model_dir}: answers its golden case otherwise than when it was exported, by up to "
            f"{off:.2g} of a probability; expected at most {TOLERANCE:g}; its weights are another "
            "model's, or TensorFlow computes wrongly here: copy or export it again"
        )


def difference(predict, image, expected):
    """The largest difference of a signature's probabilities on `image`; inf for another shape.

    Args:
        predict: signature with input `image` and output `probabilities`.
        image: float32 [B, X, Y, Z, C].
        expected: float32 [B, X, Y, Z, K].

    Returns:
        float; NaN where an answer is.
    """
    found = predict(image=tf.constant(image))["probabilities"].numpy()
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max())


def _difference(predict, image, expected, model_dir):
    try:
        return difference(predict, image, expected)
    except (TypeError, KeyError, ValueError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{model_dir}: does not run on its golden case ({reason}); it is "
            "damaged, copy or export it again"
        ) from error


def _require_unaltered(path, digest):
    try:
        found = files.sha256(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected what the model was "
            "exported with, copy or export it again"
        ) from error
    if found != digest:
        raise InputError(
            f"{path}: is not the file that the model was exported with (its SHA-256 "
            "is another); copy or export the model again"
        )
