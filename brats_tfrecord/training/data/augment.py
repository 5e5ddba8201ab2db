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
        stretch: largest share by which the magnification of each axis deviates from `zoom`.
        elastic, elastic_strength: probability that a patch which is resampled is also deformed
            elastically; range of the largest displacement of the control points, as a share of
            their distance. Below 0.4 the deformation never folds (Choi and Lee 2000).
        background_outside: whether a resampled patch shows background outside of the crop; if not,
            the border of the crop is repeated.
        blur, blur_sigma: probability of Gaussian blur; range of its sigma in voxels.
        low_resolution, kept_extent: probability that every axis is sampled down and linearly up
            again; range of the share of voxels kept along an axis.
        noise, noise_deviation: probability of Gaussian noise; range of its standard deviation.
        channel_share: probability that a channel takes part in blur, low resolution and noise, for
            each channel and transform independently.
        linear, scale, shift: probability of x -> x * s + t; s is 1 +- `scale`, t is +- `shift`.
        gamma, gamma_exponent: probability of a power law between the extremes of the patch;
            range of the exponent.
        inverted_gamma: probability of the power law on the inverted image, with exponents of the
            same range.
        contrast, contrast_factor: probability that the distance of each value from the mean is
            multiplied, and values beyond the extremes are clipped; range of the factor.
        fast: whether blur and noise are computed by their fast forms, and resampling in float32.
            The levels of earlier versions do not use them, and keep their results.
        channel_dropout: probability that channels are set to 0, as those of a missing modality are
            (Neverova et al. 2016, ModDrop). Each set of channels that leaves one or more is equally
            likely.
    """

    flip: float = 0.0
    turn: float = 0.0
    resample: float = 0.0
    degrees: float = 15.0
    zoom: tuple[float, float] = (0.85, 1.2)
    stretch: float = 0.0
    elastic: float = 0.0
    elastic_strength: tuple[float, float] = (0.0, 0.4)
    background_outside: bool = False
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.5, 1.0)
    low_resolution: float = 0.0
    kept_extent: tuple[float, float] = (0.5, 1.0)
    noise: float = 0.0
    noise_deviation: tuple[float, float] = (0.0, 0.1)
    channel_share: float = 1.0
    linear: float = 0.0
    scale: float = 0.1
    shift: float = 0.1
    gamma: float = 0.0
    gamma_exponent: tuple[float, float] = (0.7, 1.5)
    inverted_gamma: float = 0.0
    contrast: float = 0.0
    contrast_factor: tuple[float, float] = (0.65, 1.5)
    fast: bool = False
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
    "strong": Augmentation(
        flip=0.5,
        turn=0.5,
        resample=0.3,
        degrees=45.0,
        zoom=(0.75, 1.4),
        stretch=0.14,
        background_outside=True,
        elastic=0.3,
        fast=True,
        blur=0.15,
        blur_sigma=(0.5, 1.5),
        low_resolution=0.15,
        noise=0.15,
        noise_deviation=(0.0, 0.3),
        channel_share=0.5,
        linear=0.5,
        scale=0.3,
        gamma=0.3,
        gamma_exponent=(0.5, 1.6),
        inverted_gamma=0.1,
        contrast=0.15,
        channel_dropout=0.1,
    ),
}
"""The values of --augment. Ranges of intensities are for z-scored images, whose deviation is 1.

strong follows nnU-Net's winner of BraTS 2020 (Isensee et al. 2021) and NVIDIA's of 2021 (Futrega et
al. 2021). Quarter turns are free and extend its rotations to any angle; rotation and scaling are
applied together, so that a third fewer patches are resampled than if each were drawn alone.
"""

ELASTIC_POINTS = 7
"""Control points of an elastic deformation along an axis: four intervals over the patch, and one
point beyond each of its borders that a cubic B-spline needs."""


class PatchParameters(NamedTuple):
    """Position and augmentation parameters of one patch.

    A transform that is not applied is None. Arrays [C] have one value per channel.

    Attributes:
        origin: int [3], first voxel of the patch in the crop.
        flips: the axes to reverse.
        turn: (quarter turns, (axis, axis)), applied after the flips.
        matrix: [3, 3], from patch to crop axes, about the centre of the patch.
        blur: sigma [C] in voxels; 0 leaves a channel unchanged.
        low_resolution: share of the voxels kept along an axis [C]; 1 leaves a channel unchanged.
        noise: (seed, standard deviation [C]); 0 leaves a channel unchanged.
        linear: (scale [C], shift [C]).
        gamma: exponent [C].
        elastic: displacements of the control points [3, 7, 7, 7] along the axes of the patch, in
            distances between control points; only with a matrix.
        inverted_gamma: exponent [C].
        contrast: factor [C].
        background_outside, fast: as in `Augmentation`.
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
    elastic: np.ndarray | None = None
    inverted_gamma: np.ndarray | None = None
    contrast: np.ndarray | None = None
    background_outside: bool = False
    fast: bool = False
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
    parameters = PatchParameters(
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
    )
    return _draw_more(rng, augmentation, parameters, channels)


def _draw_more(rng, augmentation, parameters, channels):
    """Adds what the levels of earlier versions do not have, drawn only if it may be applied.

    These draws follow all others, which therefore never change.
    """
    a, p = augmentation, parameters

    def chance(probability):
        return probability > 0 and rng.random() < probability

    def per_channel(low, high):
        return rng.uniform(low, high, channels).astype(np.float32)

    def of_some_channels(values, unchanged):
        if values is None or a.channel_share == 1:
            return values
        return np.where(rng.random(channels) < a.channel_share, values, np.float32(unchanged))

    resampled = p.matrix is not None
    return p._replace(
        matrix=p.matrix / _stretch(rng, a) if resampled and a.stretch else p.matrix,
        elastic=_elastic(rng, a) if resampled and chance(a.elastic) else None,
        blur=of_some_channels(p.blur, 0),
        low_resolution=of_some_channels(p.low_resolution, 1),
        noise=p.noise and (p.noise[0], of_some_channels(p.noise[1], 0)),
        inverted_gamma=per_channel(*a.gamma_exponent) if chance(a.inverted_gamma) else None,
        contrast=per_channel(*a.contrast_factor) if chance(a.contrast) else None,
        background_outside=a.background_outside,
        fast=a.fast,
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


def _stretch(rng, augmentation):
    """Magnification of each axis of the patch [3], relative to that of all."""
    return rng.uniform(1 - augmentation.stretch, 1 + augmentation.stretch, 3)


def _elastic(rng, augmentation):
    """Displacements of the control points, uniform within a strength that is drawn first."""
    strength = rng.uniform(*augmentation.elastic_strength)
    return rng.uniform(-strength, strength, (3, *[ELASTIC_POINTS] * 3))
