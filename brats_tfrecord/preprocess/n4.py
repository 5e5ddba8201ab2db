"""N4 bias field correction.

The method is N4ITK (Tustison et al. 2010, IEEE TMI 29(6):1310-1320): the histogram sharpening of
N3 (Sled et al. 1998, IEEE TMI 17(1):87-97) alternates with a cubic B-spline fit to scattered data
(Lee, Wolberg & Shin 1997, IEEE TVCG 3(3):228-244). ITK treats the voxels of the mask as scattered
points. On a voxel grid a spline weight is a product of one weight per axis, so that every sum of
the fit is a product with three small matrices, which gives the same field in less time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.preprocess.n4_spline import LevelFit, evaluate

SHRINK_FACTOR = 4
LEVEL_ITERATIONS = (50, 50, 50, 50)
TOLERANCE = 1e-7
HISTOGRAM_BINS = 200
FWHM = 0.15
WIENER_NOISE = 0.01
ENGINES = ("n4", "ants")


def correct_bias_field(
    volume: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    engine: str = "n4",
    iterations: Sequence[int] = LEVEL_ITERATIONS,
    tolerance: float = TOLERANCE,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Divides `volume` by its bias field.

    Args:
        volume: [X, Y, Z] intensities of any real dtype.
        mask: [X, Y, Z] voxels that the field is fitted to and that are corrected; all by default.
            Voxels that are not positive have no logarithm and are always excluded.
        engine: "n4" for this module, "ants" for ANTsPy with the same mask.
        iterations: maximum number of iterations of each level. The spline meshes of the levels
            have 1, 2, 4, … spans per axis.
        tolerance: a level ends early if the coefficient of variation of the field's change is
            below it. The default of ANTsPy, used here, never ends a level early. The default of
            ITK, 1e-3, is about four times faster and changes the field by 1-2 %.
        out: float32 [X, Y, Z] array for the result; a new array by default.

    Returns:
        `out`, float32 [X, Y, Z]. Voxels that are not corrected keep their value. A volume without
        contrast (empty mask, a single intensity) is returned unchanged.

    Raises:
        ValueError: the engine is unknown, or shapes differ.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r}; expected one of {', '.join(ENGINES)}")
    volume = np.asarray(volume, np.float32)
    positive = positive_mask(volume)
    if mask is not None and np.shape(mask) != volume.shape:
        raise ValueError(
            f"mask has shape {np.shape(mask)}, volume {volume.shape}; expected one shape"
        )
    mask = positive if mask is None else np.asarray(mask, bool) & positive
    out = np.empty(volume.shape, np.float32) if out is None else out
    np.copyto(out, volume)
    if not mask.any():
        return out
    if engine == "ants":
        return _correct_with_ants(volume, mask, iterations, tolerance, out)
    return _divide(volume, mask, _fit(volume, mask, iterations, tolerance), out)


def positive_mask(volume: np.ndarray) -> np.ndarray:
    """Returns the voxels of positive intensity, the brain of a skull-stripped volume, as bool."""
    return np.asarray(volume) > 0


def get_mask(volume: np.ndarray) -> np.ndarray:
    """Runs ANTsPy's `get_mask`: voxels above the mean, after morphological cleaning, as bool."""
    ants = _import_ants()
    image = ants.from_numpy(np.asarray(volume, np.float32))
    return ants.get_mask(image).numpy() > 0


def shrink_slice(length: int, factor: int) -> slice:
    """Returns the samples along one axis that `itk::ShrinkImageFilter` keeps.

    ITK keeps n // s samples of n, centred on the axis. The first one is
    floor((n - 1) / 2 - (n // s - 1) * s / 2 + 0.5).
    """
    samples = max(length // factor, 1)
    first = int(np.floor((length - 1) / 2 - (samples - 1) * factor / 2 + 0.5))
    return slice(first, first + (samples - 1) * factor + 1, factor)


def sharpen(log_values: np.ndarray) -> np.ndarray:
    """Estimates the true log intensity of every voxel by Wiener deconvolution of the histogram.

    Args:
        log_values: float64 [N], log intensities inside the mask.

    Returns:
        float64 [N]; `log_values` itself if it does not vary.
    """
    low, high = log_values.min(), log_values.max()
    if high <= low:
        return log_values
    slope = (high - low) / (HISTOGRAM_BINS - 1)
    position = log_values - low
    position /= slope
    # The brightest voxel lies on the last bin: it counts as between the last two bins, share 1.
    lower = np.minimum(position.astype(np.intp), HISTOGRAM_BINS - 2)
    share = np.subtract(position, lower, out=position)
    histogram = np.bincount(lower, 1 - share, HISTOGRAM_BINS)
    histogram[1:] += np.bincount(lower, share, HISTOGRAM_BINS)[:-1]
    expected = _expected_values(histogram, low, slope)
    share *= np.diff(expected).take(lower)
    share += expected.take(lower)
    return share


def _expected_values(histogram, low, slope):
    """Expected true log intensity for every bin (Sled et al. 1998, equations 11-13)."""
    padded = 2 ** (int(np.ceil(np.log2(HISTOGRAM_BINS))) + 1)
    offset = (padded - HISTOGRAM_BINS) // 2
    observed = np.zeros(padded)
    observed[offset : offset + HISTOGRAM_BINS] = histogram
    gaussian = _gaussian_spectrum(padded, slope)
    wiener = np.conj(gaussian) / (np.conj(gaussian) * gaussian + WIENER_NOISE)
    true = np.fft.ifft(np.fft.fft(observed) * wiener.real).real.clip(min=0)
    centres = low + (np.arange(padded) - offset) * slope
    moment = np.fft.ifft(np.fft.fft(centres * true) * gaussian).real
    mass = np.fft.ifft(np.fft.fft(true) * gaussian).real
    expected = np.divide(moment, mass, out=np.zeros(padded), where=mass != 0)
    return expected[offset : offset + HISTOGRAM_BINS]


def _gaussian_spectrum(padded, slope):
    fwhm = FWHM / slope
    distance = np.minimum(np.arange(padded), padded - np.arange(padded))
    gaussian = (
        2 * np.sqrt(np.log(2) / np.pi) / fwhm * np.exp(-4 * np.log(2) * (distance / fwhm) ** 2)
    )
    return np.fft.fft(gaussian)


def _fit(volume, mask, iterations, tolerance):
    """Fits the log bias field; returns one control lattice per level, their iterations summed."""
    picks = tuple(shrink_slice(length, SHRINK_FACTOR) for length in volume.shape)
    small_mask = mask[picks]
    if not small_mask.any():
        return []
    log_input = np.log(volume[picks][small_mask].astype(np.float64))
    field = np.zeros_like(log_input)
    lattices = []
    for level, count in enumerate(iterations):
        fit = LevelFit(small_mask, spans=2**level)
        lattice = np.zeros(fit.lattice_shape)
        for _ in range(count):
            corrected = log_input - field
            update = fit.lattice(corrected - sharpen(corrected))
            change = fit.values(update)
            field += change
            lattice += update
            if has_converged(change, tolerance):
                break
        lattices.append(lattice)
    return lattices


def has_converged(change: np.ndarray, tolerance: float) -> bool:
    """Returns whether the coefficient of variation of exp(field change) is below the tolerance.

    ITK ends a level by the same criterion. Values with the range r have a coefficient of variation
    of at least (1 - exp(-r)) / sqrt(2 N). With the default tolerance this bound makes the
    exponentials unnecessary in most iterations.
    """
    if -np.expm1(-np.ptp(change)) > 2 * tolerance * np.sqrt(2 * change.size):
        return False
    ratio = np.exp(change)
    return (ratio.std(ddof=1) / ratio.mean() if ratio.size > 1 else 0.0) < tolerance


def _divide(volume, mask, lattices, out):
    """Divides the voxels of the mask in `out`; evaluates the field in their bounding box only."""
    if lattices:
        box = bounding_box(mask)
        log_field = evaluate(lattices, volume.shape, box)
        np.divide(volume[box], np.exp(log_field, out=log_field), out=out[box], where=mask[box])
    return out


def _correct_with_ants(volume, mask, iterations, tolerance, out):
    if np.ptp(volume[mask]) == 0:  # ANTs needs a histogram with more than one bin
        return out
    ants = _import_ants()
    result = ants.n4_bias_field_correction(
        ants.from_numpy(volume),
        mask=ants.from_numpy(mask.astype(np.float32)),
        shrink_factor=SHRINK_FACTOR,
        convergence={"iters": list(iterations), "tol": tolerance},
    ).numpy()
    np.copyto(out, result, where=mask)
    return out


def _import_ants():
    # ANTs reads its thread count when it is imported; with two threads it rounds differently.
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    import ants

    return ants
