"""Voxel overlap of a region, from one confusion matrix of the classes.

Every figure is a pure function of four counts; each returns None where its denominator is 0 and
leaves it to a rule set (`metrics.case`) to say what that means.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Counts:
    """Voxels of one region: in both, in the prediction only, in the truth only, in neither."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


def confusion(truth, prediction, classes):
    """Counts every pair of classes.

    Args:
        truth, prediction: integer arrays of one shape, class ids 0 ... classes - 1.
        classes: number of classes, background included.

    Returns:
        int64 [classes, classes]; entry [i, j] counts voxels of true class i predicted as j.
    """
    pairs = truth.astype(np.intp).ravel() * classes + prediction.ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def region_counts(matrix, region):
    """Returns the `Counts` of the union of the class ids `region`, from a confusion matrix."""
    inside = np.isin(np.arange(len(matrix)), region)
    return Counts(
        true_positive=int(matrix[inside][:, inside].sum()),
        false_positive=int(matrix[~inside][:, inside].sum()),
        false_negative=int(matrix[inside][:, ~inside].sum()),
        true_negative=int(matrix[~inside][:, ~inside].sum()),
    )


def dice(counts):
    """Dice (1945): 2 TP / (2 TP + FP + FN); None if both masks are empty."""
    both = 2 * counts.true_positive
    return _ratio(both, both + counts.false_positive + counts.false_negative)


def sensitivity(counts):
    """TP / (TP + FN), the part of the truth that was found; None if the truth is empty."""
    return _ratio(counts.true_positive, counts.true_positive + counts.false_negative)


def specificity(counts):
    """TN / (TN + FP), over every voxel of the volume, air included; None if the truth fills it."""
    return _ratio(counts.true_negative, counts.true_negative + counts.false_positive)


def _ratio(part, whole):
    return part / whole if whole else None
