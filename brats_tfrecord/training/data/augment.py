"""Augmentation of one example: what may happen, and the draw of what does.

A draw is a pure function of its generator, and `augment_space` and `augment_intensity` apply it
without any chance: an example of any epoch can be made again. Nothing here imports TensorFlow.
"""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """Probability and range of each transform; a probability of 0 turns it off.

    Attributes:
        flip: probability that an axis is reversed, each by itself.
        turn: of 1, 2 or 3 quarter turns, in one of the planes where the patch is square.
        resample: of a rotation and scaling together, trilinear; labels take the nearest voxel.
        degrees: rotation about each axis, up to this either way.
        zoom: range of the magnification, one for all axes.
        blur, blur_sigma: probability of Gaussian blur; its sigma in voxels.
        low_resolution, kept_extent: probability that every axis is sampled down and linearly up
            again; to which share of its voxels.
        noise, noise_deviation: probability of Gaussian noise; range of its standard deviation.
        linear, scale, shift: probability of x -> x * s + t; s is 1 +- `scale`, t is +- `shift`.
        gamma, gamma_exponent: probability of a power law between the patch's extremes; range.
    """

    flip: float = 0.0
    turn: float = 0.0
    resample: float = 0.0
    degrees: float = 15.0
    zoom: tuple[float, float] = (0.85, 1.2)
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.5, 1.0)
    low_resolution: float = 0.0
    kept_extent: tuple[float, float] = (0.5, 1.0)
    noise: float = 0.0
    noise_deviation: tuple[float, float] = (0.0, 0.1)
    linear: float = 0.0
    scale: float = 0.1
    shift: float = 0.1
    gamma: float = 0.0
    gamma_exponent: tuple[float, float] = (0.7, 1.5)


_FLIPS = Augmentation(flip=0.5)
_LIGHT = dataclasses.replace(_FLIPS, linear=1.0)
LEVELS = {
    "none": Augmentation(),
    "flips": _FLIPS,
    "light": _LIGHT,
    "full": dataclasses.replace(
        _LIGHT, turn=0.5, resample=0.2, blur=0.1, low_resolution=0.1, noise=0.1, gamma=0.2
    ),
}
"""What --augment may be. Intensities are those of z-scored images: a deviation is 1."""


class Draw(NamedTuple):
    """What happens to one example; None is what does not. Arrays [C] have a value a channel.

    Attributes:
        origin: int [3], first voxel of the patch in the crop.
        flips: the axes that are reversed.
        turn: (quarter turns, (axis, axis)), after the flips.
        matrix: [3, 3], from the patch's axes to the crop's, about the patch's centre.
        blur: sigma [C] in voxels.
        low_resolution: share of the voxels kept along an axis [C].
        noise: (seed, standard deviation [C]).
        linear: (scale [C], shift [C]).
        gamma: exponent [C].
    """

    origin: np.ndarray
    flips: tuple[int, ...] = ()
    turn: tuple[int, tuple[int, int]] | None = None
    matrix: np.ndarray | None = None
    blur: np.ndarray | None = None
    low_resolution: np.ndarray | None = None
    noise: tuple[int, np.ndarray] | None = None
    linear: tuple[np.ndarray, np.ndarray] | None = None
    gamma: np.ndarray | None = None


def draw(rng, options, crop_shape, patch_shape, channels, foreground_fraction, find_tumour):
    """Draws what happens to one example.

    A share of the patches is centred on a tumour voxel, each as likely as the other (moved into
    the crop where it would leave it); the rest lie anywhere in the crop. Tumour fills a few
    hundredths of a crop: patches that miss it teach little.

    Args:
        rng: `np.random.Generator`; equal states draw the same.
        options: `Augmentation`.
        crop_shape, patch_shape: (X, Y, Z); the patch is nowhere larger.
        channels: of the image.
        foreground_fraction: the share centred on tumour, 0 to 1; a case without tumour has none.
        find_tumour: function () -> flat indices (C order) of the crop's tumour voxels; called
            only if the patch is to be centred on one.

    Returns:
        `Draw`.
    """

    def happens(probability):
        return rng.random() < probability

    def each(low, high):
        return rng.uniform(low, high, channels).astype(np.float32)

    return Draw(
        origin=_origin(rng, crop_shape, patch_shape, foreground_fraction, find_tumour),
        flips=tuple(axis for axis in range(3) if happens(options.flip)),
        turn=_turn(rng, patch_shape) if happens(options.turn) else None,
        matrix=_matrix(rng, options) if happens(options.resample) else None,
        blur=each(*options.blur_sigma) if happens(options.blur) else None,
        low_resolution=each(*options.kept_extent) if happens(options.low_resolution) else None,
        noise=(
            (int(rng.integers(2**63)), each(*options.noise_deviation))
            if happens(options.noise)
            else None
        ),
        linear=(
            (each(1 - options.scale, 1 + options.scale), each(-options.shift, options.shift))
            if happens(options.linear)
            else None
        ),
        gamma=each(*options.gamma_exponent) if happens(options.gamma) else None,
    )


def _origin(rng, crop_shape, patch_shape, foreground_fraction, find_tumour):
    free = np.subtract(crop_shape, patch_shape)
    anywhere = rng.integers(free + 1)
    if rng.random() < foreground_fraction:
        tumour = find_tumour()
        if len(tumour):
            voxel = np.unravel_index(tumour[rng.integers(len(tumour))], crop_shape)
            return np.clip(voxel - np.floor_divide(patch_shape, 2), 0, free)
    return anywhere


def _turn(rng, patch_shape):
    planes = [(a, b) for a, b in ((0, 1), (0, 2), (1, 2)) if patch_shape[a] == patch_shape[b]]
    if not planes:
        return None
    return int(rng.integers(1, 4)), planes[rng.integers(len(planes))]


def _matrix(rng, options):
    """Rotation about X, then Y, then Z, over the magnification."""
    matrix = np.eye(3) / rng.uniform(*options.zoom)
    for axis, angle in enumerate(np.radians(rng.uniform(-1, 1, 3) * options.degrees)):
        a, b = (n for n in range(3) if n != axis)
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix
