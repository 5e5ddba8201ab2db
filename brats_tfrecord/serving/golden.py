"""The golden case of a SavedModel: an input stored with its output, checked at every load.

`assets/golden.npz` holds `image` float32 [1, X, Y, Z, C], `probabilities` float32 [1, X, Y, Z, K]
as the networks computed them before the export, and `card`, the digest of the model card.
`model.json` holds the SHA-256 of the file. A change of the weights, the golden case or the card
is therefore detected.
"""

import contextlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving.card import ModelCard

FILE_NAME = "golden.npz"

TOLERANCE = 1e-2
"""Largest accepted difference of a probability at load. CPUs differ by about 1e-5, GPUs that round
the factors of a convolution to 10 bits (TF32) by about 1e-3, other weights by far more."""

EXPORT_TOLERANCE = 1e-5
"""Largest accepted difference of a probability at export, on one machine, in `full_float32`."""

_MIN_EXTENT = 8


def make_image(card: ModelCard) -> np.ndarray:
    """Makes the input of the golden case, the same for every model of the card's shape.

    An ellipsoid in dark surroundings with a bright, eccentric ball whose contrast differs
    between channels, and noise; values in the range of z-scores. A brain channel needs a background
    of a single value: then there is noise in the ellipsoid only. With u the stride, rounded up to a
    multiple of at least 8 voxels, the extents are u, 2u and 3u - 1: the axes differ, and one
    needs padding.

    Returns:
        float32 [1, X, Y, Z, C].
    """
    unit = -(-_MIN_EXTENT // card.piece.stride) * card.piece.stride
    shape, channels = (unit, 2 * unit, 3 * unit - 1), len(card.modalities)
    centres = [(np.arange(n) + 0.5) / n for n in shape]
    x, y, z = np.meshgrid(*centres, indexing="ij")
    head = ((x - 0.5) ** 2 + (y - 0.5) ** 2 + (z - 0.5) ** 2 < 0.45**2)[..., None]
    ball = ((x - 0.6) ** 2 + (y - 0.4) ** 2 + (z - 0.65) ** 2 < 0.2**2)[..., None]
    contrast = 1 + np.arange(channels)
    noise = np.random.default_rng(0).standard_normal((*shape, channels))
    if card.brain_channel:
        noise *= head
    return (head - 0.7 + ball * contrast + 0.2 * noise).astype(np.float32)[None]


def write(path: Path | str, image: np.ndarray, probabilities: np.ndarray, card: ModelCard) -> None:
    """Writes a golden case.

    Args:
        path: file to write.
        image: float32 [1, X, Y, Z, C].
        probabilities: float32 [1, X, Y, Z, K], the networks' output.
        card: card of the model; its digest is stored.
    """
    digest = cards.content_digest(card.to_json())
    np.savez(path, image=image, probabilities=probabilities, card=np.array(digest))


def check(predict: Callable, model_dir: Path | str, card: ModelCard) -> None:
    """Checks that a model's files are unaltered and that it reproduces its golden case.

    Args:
        predict: the loaded signature `serving_default`.
        model_dir: folder of the model.
        card: the card read from this folder.

    Raises:
        InputError: an asset or the card is missing or altered, or a probability of the golden
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
    if digest != cards.content_digest(cards.read_json(model_dir)):
        raise InputError(
            f"{folder / 'model.json'}: was altered or belongs to another model; copy or export "
            "the model again"
        )
    difference = _difference(predict, image, expected, model_dir)
    if not difference <= TOLERANCE:
        raise InputError(
            f"{model_dir}: the probabilities of its golden case differ by up to {difference:.2g} "
            f"from those stored at export; expected at most {TOLERANCE:g}. The weights belong to "
            "another model, or TensorFlow computes wrong results on this machine: copy or export "
            "the model again"
        )


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Computes in float32 within the block, also on GPUs that would round factors to TF32.

    The golden case is what other machines are compared with, so it holds the exact numbers, and
    at export no rounding hides a difference.
    """
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def max_difference(predict: Callable, image: np.ndarray, expected: np.ndarray) -> float:
    """Computes the largest difference between a signature's probabilities and the expected ones.

    Args:
        predict: signature with input `image` and output `probabilities`.
        image: float32 [B, X, Y, Z, C].
        expected: float32 [B, X, Y, Z, K].

    Returns:
        The difference; inf if the shapes differ, NaN if a probability is NaN.
    """
    probabilities = predict(image=tf.constant(image))["probabilities"].numpy()
    if probabilities.shape != expected.shape:
        return float("inf")
    return float(np.abs(probabilities - expected).max())


def _difference(predict, image, expected, model_dir):
    try:
        return max_difference(predict, image, expected)
    except (TypeError, KeyError, ValueError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{model_dir}: fails on its golden case ({reason}); the model is damaged, copy or "
            "export it again"
        ) from error


def _require_unaltered(path, expected):
    try:
        digest = files.sha256(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected the file that was exported with "
            "the model, copy or export the model again"
        ) from error
    if digest != expected:
        raise InputError(
            f"{path}: is not the file that was exported with the model (its SHA-256 differs); "
            "copy or export the model again"
        )
