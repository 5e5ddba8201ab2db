"""A baseline for networks: segmentation of a cohort by one intensity threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_QUANTILES = 64
"""Number of thresholds tried."""


def best_threshold_dice(
    images: Sequence[np.ndarray], truths: Sequence[np.ndarray]
) -> tuple[float, float]:
    """Finds the threshold with the highest mean Dice over the cases.

    A voxel is predicted where its intensity is at least the threshold. The candidates are
    quantiles of the intensities inside the truths, pooled over the cohort (a threshold below the
    lowest of them only adds false voxels), and infinity, which predicts nothing. Dice is
    2 |T and P| / (|T| + |P|), and 1 where both are empty.

    Args:
        images: one array per case; shapes may differ between cases.
        truths: bool (or 0/1) arrays of the same shapes.

    Returns:
        (mean Dice over the cases, threshold); the lower threshold if two are equally good.

    Raises:
        ValueError: there is no case, or numbers or shapes differ.
    """
    images = [np.asarray(image) for image in images]
    truths = [np.asarray(truth, bool) for truth in truths]
    _check(images, truths)
    candidates = _candidates(images, truths)
    scores = np.mean(
        [_dice_at(image, truth, candidates) for image, truth in zip(images, truths)], axis=0
    )
    best = int(np.argmax(scores))
    return float(scores[best]), float(candidates[best])


def _candidates(images, truths):
    """Ascending thresholds, float64 1-D, infinity last."""
    inside = np.concatenate([image[truth] for image, truth in zip(images, truths)])
    if not inside.size:
        return np.array([np.inf])
    shares = np.linspace(0, 1, _QUANTILES)
    quantiles = np.quantile(inside, shares, method="inverted_cdf")
    return np.append(np.unique(quantiles.astype(np.float64)), np.inf)


def _dice_at(image, truth, candidates):
    """Dice of one case at every candidate threshold, float64 1-D."""
    predicted = _counts_reaching(image.ravel(), candidates)
    common = _counts_reaching(image[truth], candidates)
    total = predicted + np.count_nonzero(truth)
    return np.where(total > 0, 2 * common / np.maximum(total, 1), 1.0)


def _counts_reaching(values, candidates):
    """Number of `values` at or above each candidate."""
    passed = np.searchsorted(candidates, values, side="right")
    counts = np.bincount(passed, minlength=len(candidates) + 1)
    return np.cumsum(counts[::-1])[::-1][1:]


def _check(images, truths):
    if not images or len(images) != len(truths):
        raise ValueError(
            f"got {len(images)} images and {len(truths)} truths; expected one truth "
            "for each image, and at least one"
        )
    for image, truth in zip(images, truths):
        if image.shape != truth.shape:
            raise ValueError(
                f"got an image of shape {image.shape} and a truth of shape "
                f"{truth.shape}; expected equal shapes"
            )
