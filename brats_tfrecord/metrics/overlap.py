"""Overlap metrics of a region, computed from the confusion matrix of the classes.

Every metric is a function of the four `Counts` of a region. It is None where its denominator is
0; a rule set (`metrics.rules`) decides which value is reported then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Counts:
    """Numbers of voxels of one region in both masks, in one of them, and in neither."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def truth(self) -> int:
        """Number of voxels of the true region."""
        return self.true_positive + self.false_negative

    @property
    def prediction(self) -> int:
        """Number of voxels of the predicted region."""
        return self.true_positive + self.false_positive


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Counts the voxels of every pair of true and predicted class.

    Args:
        truth, prediction: integer arrays of one shape, class ids 0 ... classes - 1.
        classes: number of classes, background included.

    Returns:
        int64 [classes, classes]; entry [i, j] is the number of voxels of class i predicted as j.
    """
    pairs = truth.astype(np.min_scalar_type(classes**2)) * classes + prediction
    return np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)


def region_counts(matrix: np.ndarray, region: Sequence[int]) -> Counts:
    """Counts the voxels of a union of classes from a confusion matrix.

    Args:
        matrix: integer [classes, classes] as returned by `confusion`.
        region: class ids of the region.
    """
    inside = np.isin(np.arange(len(matrix)), region)
    return Counts(
        true_positive=int(matrix[inside][:, inside].sum()),
        false_positive=int(matrix[~inside][:, inside].sum()),
        false_negative=int(matrix[inside][:, ~inside].sum()),
        true_negative=int(matrix[~inside][:, ~inside].sum()),
    )


def dice(counts: Counts) -> float | None:
    """Computes 2 TP / (2 TP + FP + FN) (Dice 1945); None if both masks are empty."""
    return _ratio(2 * counts.true_positive, counts.truth + counts.prediction)


def sensitivity(counts: Counts) -> float | None:
    """Computes TP / (TP + FN); None if the truth is empty."""
    return _ratio(counts.true_positive, counts.truth)


def specificity(counts: Counts) -> float | None:
    """Computes TN / (TN + FP) over the whole volume, air included; None if the truth fills it."""
    return _ratio(counts.true_negative, counts.true_negative + counts.false_positive)


def volume_error_ml(counts: Counts, spacing_mm: Sequence[float]) -> float:
    """Computes the volume of the prediction minus the volume of the truth, in mL."""
    x, y, z = spacing_mm
    return (counts.prediction - counts.truth) * x * y * z / 1000


def _ratio(part, whole):
    return part / whole if whole else None
