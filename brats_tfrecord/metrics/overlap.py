"""Voxel overlap of a region, from one confusion matrix of the classes.

Every figure is a pure function of four counts; each returns None where its denominator is 0 and
leaves it to a rule set (`metrics.rules`) to say what that means.
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

    @property
    def truth(self):
        """Voxels of the truth."""
        return self.true_positive + self.false_negative

    @property
    def prediction(self):
        """Voxels of the prediction."""
        return self.true_positive + self.false_positive


def confusion(truth, prediction, classes):
    """Counts every pair of classes.

    Args:
        truth, prediction: integer arrays of one shape, class ids 0 ... classes - 1.
        classes: number of classes, background included.

    Returns:
        int64 [classes, classes]; entry [i, j] counts voxels of true class i predicted as j.
    """
    pairs = truth.astype(np.min_scalar_type(classes**2)) * classes + prediction
    return np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)


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
    return _ratio(2 * counts.true_positive, counts.truth + counts.prediction)


def sensitivity(counts):
    """TP / (TP + FN), the part of the truth that was found; None if the truth is empty."""
    return _ratio(counts.true_positive, counts.truth)


def specificity(counts):
    """TN / (TN + FP), over every voxel of the volume, air included; None if the truth fills it."""
    return _ratio(counts.true_negative, counts.true_negative + counts.false_positive)


def volume_error_ml(counts, spacing_mm):
    """Volume of the prediction minus that of the truth, in mL; never None."""
    x, y, z = spacing_mm
    return (counts.prediction - counts.truth) * x * y * z / 1000


def _ratio(part, whole):
    return part / whole if whole else None
