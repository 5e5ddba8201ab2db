"""Random augmentation parameters of one example.

The parameters are a pure function of the random generator, and `augment_space` and
`augment_intensity` apply them deterministically: an example of any epoch can be computed again.
Imports no TensorFlow.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FOREGROUNDS = ("voxels", "classes")
"""The values of --foreground: groups of `draw_parameters`, all tumour voxels or one per class."""


@dataclass(frozen=True)
class Augmentation:
    """Probability and range of each transform; a probability of 0 turns it off.

    Attributes:
        flip: probability that an axis is reversed, for each axis independently.
        turn: probability of 1, 2 or 3 quarter turns in one of the planes where the patch is
            square.
        resample: probability of a rotation and scaling, trilinear; labels take the nearest voxel.
        degrees: largest rotation about each axis, in either direction.
        zoom: range of the magnification, which is the same along all axes.
        blur, blur_sigma: probability of Gaussian blur; range of its sigma in voxels.
        low_resolution, kept_extent: probability that every axis is sampled down and linearly up
            again; range of the share of voxels kept along an axis.
        noise, noise_deviation: probability of Gaussian noise; range of its standard deviation.
        linear, scale, shift: probability of x -> x * s + t; s is 1 +- `scale`, t is +- `shift`.
        gamma, gamma_exponent: probability of a power law between the extremes of the patch;
            range of the exponent.
        channel_dropout: probability that channels are set to 0, as those of a missing modality are
            (Neverova et al. 2016, ModDrop). Each set of channels that leaves one or more is equally
            likely.
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
    channel_dropout: float = 0.0


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
"""The values of --augment. Ranges of intensities are for z-scored images, whose deviation is 1."""


class PatchParameters(NamedTuple):
    """Position and augmentation parameters of one patch.

    A transform that is not applied is None. Arrays [C] have one value per channel.

    Attributes:
        origin: int [3], first voxel of the patch in the crop.
        flips: the axes to reverse.
        turn: (quarter turns, (axis, axis)), applied after the flips.
        matrix: [3, 3], from patch to crop axes, about the centre of the patch.
        blur: sigma [C] in voxels.
        low_resolution: share of the voxels kept along an axis [C].
        noise: (seed, standard deviation [C]).
        linear: (scale [C], shift [C]).
        gamma: exponent [C].
        dropped: the channels that are set to 0 after all other transforms; empty if this patch
            keeps all of them, None if channels are never dropped.
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
    dropped: tuple[int, ...] | None = None


def draw_parameters(
    rng: np.random.Generator,
    augmentation: Augmentation,
    crop_shape: Sequence[int],
    patch_shape: Sequence[int],
    channels: int,
    foreground_fraction: float,
    find_foreground: Callable[[], Sequence[np.ndarray]],
) -> PatchParameters:
    """Draws where a patch lies and how it is augmented.

    A share of the patches is centred on a voxel of a group: each group equally likely, then each of
    its voxels (and moved into the crop where the patch would leave it). The others lie anywhere in
    the crop. Tumour fills a few hundredths of a crop, and patches that miss it teach little.

    Args:
        rng: random generator; equal states draw equal parameters.
        augmentation: probabilities and ranges.
        crop_shape, patch_shape: (X, Y, Z); the patch is not larger than the crop on any axis.
        channels: number of image channels.
        foreground_fraction: share of patches centred on tumour, 0 to 1; a case without tumour
            has none.
        find_foreground: function () -> groups of voxels, each the flat indices (C order) in the
            crop of one voxel or more: all tumour voxels, or those of each class. Called only for a
            patch to centre; a case without tumour has no group.
    """

    def chance(probability):
        return rng.random() < probability

    def per_channel(low, high):
        return rng.uniform(low, high, channels).astype(np.float32)

    # The order of these calls is part of the result: each advances the generator.
    a = augmentation
    return PatchParameters(
        origin=_origin(rng, crop_shape, patch_shape, foreground_fraction, find_foreground),
        flips=tuple(axis for axis in range(3) if chance(a.flip)),
        turn=_turn(rng, patch_shape) if chance(a.turn) else None,
        matrix=_matrix(rng, a) if chance(a.resample) else None,
        blur=per_channel(*a.blur_sigma) if chance(a.blur) else None,
        low_resolution=per_channel(*a.kept_extent) if chance(a.low_resolution) else None,
        noise=(
            (int(rng.integers(2**63)), per_channel(*a.noise_deviation)) if chance(a.noise) else None
        ),
        linear=(
            (per_channel(1 - a.scale, 1 + a.scale), per_channel(-a.shift, a.shift))
            if chance(a.linear)
            else None
        ),
        gamma=per_channel(*a.gamma_exponent) if chance(a.gamma) else None,
        # The only transform that draws no number if it is off: runs of earlier versions lack it.
        dropped=_dropped(rng, a.channel_dropout, channels) if a.channel_dropout else None,
    )


def _origin(rng, crop_shape, patch_shape, foreground_fraction, find_foreground):
    free = np.subtract(crop_shape, patch_shape)
    anywhere = rng.integers(free + 1)
    if rng.random() < foreground_fraction:
        groups = find_foreground()
        if len(groups):
            # A single group draws no number, so the patches of --foreground=voxels never change.
            group = groups[rng.integers(len(groups)) if len(groups) > 1 else 0]
            voxel = np.unravel_index(group[rng.integers(len(group))], crop_shape)
            return np.clip(voxel - np.floor_divide(patch_shape, 2), 0, free)
    return anywhere


def _dropped(rng, probability, channels):
    """Channels to drop: each non-empty proper subset is equally likely, as a number in binary."""
    if channels == 1 or rng.random() >= probability:
        return ()
    subset = int(rng.integers(1, 2**channels - 1))
    return tuple(channel for channel in range(channels) if subset >> channel & 1)


def _turn(rng, patch_shape):
    planes = [(a, b) for a, b in ((0, 1), (0, 2), (1, 2)) if patch_shape[a] == patch_shape[b]]
    if not planes:
        return None
    return int(rng.integers(1, 4)), planes[rng.integers(len(planes))]


def _matrix(rng, augmentation):
    """Rotation about X, then Y, then Z, divided by the magnification."""
    matrix = np.eye(3) / rng.uniform(*augmentation.zoom)
    for axis, angle in enumerate(np.radians(rng.uniform(-1, 1, 3) * augmentation.degrees)):
        a, b = (n for n in range(3) if n != axis)
        rotation = np.eye(3)
        rotation[a, a] = rotation[b, b] = np.cos(angle)
        rotation[a, b], rotation[b, a] = -np.sin(angle), np.sin(angle)
        matrix = rotation @ matrix
    return matrix
