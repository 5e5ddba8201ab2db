"""The score to beat: how well one intensity threshold segments a whole cohort."""

import numpy as np


def best_threshold_dice(images, truths, thresholds=64):
    """Finds the single threshold whose mean Dice over the cases is best.

    A voxel is predicted where its intensity reaches the threshold. Candidates are quantiles of
    the intensities inside the truths, pooled over the cohort (below the lowest of them only
    false voxels are gained), and infinity, which predicts nothing. Dice is
    2 |T and P| / (|T| + |P|), and 1 where both are empty.

    Args:
        images: sequence of arrays, one a case; shapes may differ from case to case.
        truths: sequence of bool arrays (or 0/1) of the same shapes.
        thresholds: number of quantiles tried.

    Returns:
        (mean Dice over the cases, the threshold), floats; the lower threshold if two tie.

    Raises:
        ValueError: no case, numbers or shapes that differ, or `thresholds` below 1.
    """
    images = [np.asarray(image) for image in images]
    truths = [np.asarray(truth, bool) for truth in truths]
    _check(images, truths, thresholds)
    candidates = _candidates(images, truths, thresholds)
    scores = np.mean(
        [_dice_at(image, truth, candidates) for image, truth in zip(images, truths)], axis=0
    )
    best = int(np.argmax(scores))
    return float(scores[best]), float(candidates[best])


def _candidates(images, truths, thresholds):
    """Ascending thresholds worth trying, float64, infinity last."""
    inside = np.concatenate([image[truth] for image, truth in zip(images, truths)])
    if not inside.size:
        return np.array([np.inf])
    shares = np.linspace(0, 1, thresholds)
    quantiles = np.quantile(inside, shares, method="inverted_cdf")
    return np.append(np.unique(quantiles.astype(np.float64)), np.inf)


def _dice_at(image, truth, candidates):
    """Dice of one case at every candidate, float64 1-D."""
    predicted = _counts_reaching(image.ravel(), candidates)
    common = _counts_reaching(image[truth], candidates)
    total = predicted + np.count_nonzero(truth)
    return np.where(total > 0, 2 * common / np.maximum(total, 1), 1.0)


def _counts_reaching(values, candidates):
    """How many of `values` reach each candidate."""
    passed = np.searchsorted(candidates, values, side="right")
    counts = np.bincount(passed, minlength=len(candidates) + 1)
    return np.cumsum(counts[::-1])[::-1][1:]


def _check(images, truths, thresholds):
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
    if thresholds < 1:
        raise ValueError(f"thresholds: got {thresholds}; expected 1 or more")
