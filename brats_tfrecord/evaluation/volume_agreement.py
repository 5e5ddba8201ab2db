"""Bland-Altman agreement of predicted and true volumes, with cases clustered by patient."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from brats_tfrecord.evaluation.case_results import CaseResult

MIN_PATIENTS_FOR_LIMITS = 5
"""With fewer patients the standard deviation is too uncertain to derive limits of agreement."""

LEVEL = 0.95
_Z = float(stats.norm.ppf(0.975))

Interval = tuple[float, float]


@dataclass(frozen=True)
class Agreement:
    """Agreement of the volumes of one region, in mL.

    Attributes:
        means: mean of true and predicted volume of each case.
        differences: prediction - truth of each case.
        patients: patient id of each case.
        truth, predicted: mean volumes, averaged by patient first; None without a case.
        bias: predicted - truth; None below two patients.
        bias_interval: 95 % confidence interval of the bias; None below two patients.
        low, high: limits of agreement, which contain 95 % of the differences of single cases if
            these are normally distributed; None below `MIN_PATIENTS_FOR_LIMITS` patients.
        low_interval, high_interval: 95 % confidence intervals of the limits; None without them.
    """

    means: list[float]
    differences: list[float]
    patients: list[str]
    truth: float | None = None
    predicted: float | None = None
    bias: float | None = None
    bias_interval: Interval | None = None
    low: float | None = None
    high: float | None = None
    low_interval: Interval | None = None
    high_interval: Interval | None = None


def agreement(rows: Sequence[CaseResult], region: str) -> Agreement:
    """Computes the agreement of the volumes of one region.

    Several cases of a patient are not independent. The variance of a single difference is the sum
    of its components between and within patients, from a one-way analysis of variance (Bland and
    Altman 2007, J Biopharm Stat 17(4), "true value varies"); the means over patients are
    unweighted (Zou 2013, Stat Methods Med Res 22(6)). With one case per patient this is bias
    ± 1.96 standard deviations (Bland and Altman 1986). The intervals of the limits are exact for
    one case per patient (Carkeet 2015, Optom Vis Sci 92(3), by the noncentral t distribution),
    otherwise the same with Satterthwaite's (1946) degrees of freedom of the summed variance.

    Args:
        rows: results that have both `volumes_ml` and `truth_ml`.
        region: a key of both.
    """
    volumes = np.array(
        [
            (row.truth_ml[region], row.volumes_ml[region])
            for row in rows
            if row.truth_ml is not None and row.volumes_ml is not None
        ]
    ).reshape(-1, 2)
    patients = [row.patient_id for row in rows]
    differences = volumes[:, 1] - volumes[:, 0]
    points = (volumes.mean(axis=1).tolist(), differences.tolist(), patients)
    if not rows:
        return Agreement(*points)
    numbers = np.unique(patients, return_inverse=True)[1]
    cases = np.bincount(numbers)
    truth, predicted = (
        float((np.bincount(numbers, column) / cases).mean()) for column in volumes.T
    )
    if len(cases) < 2:
        return Agreement(*points, truth, predicted)
    return Agreement(*points, truth, predicted, **_limits(differences, numbers, cases))


def _limits(differences, numbers, cases):
    """Bias, limits and their intervals, as keywords of `Agreement`.

    `numbers` are the patients [N] as 0, 1, …, `cases` the number of cases of each [P].
    """
    patients = len(cases)
    means = np.bincount(numbers, differences) / cases
    bias, standard_error = float(means.mean()), float(means.std(ddof=1) / np.sqrt(patients))
    t = float(stats.t.ppf((1 + LEVEL) / 2, patients - 1))
    result = {"bias": bias, "bias_interval": (bias - t * standard_error, bias + t * standard_error)}
    if patients < MIN_PATIENTS_FOR_LIMITS:
        return result
    sd, freedom, share = _deviation(differences, numbers, cases, means)
    half_width = _Z * sd
    inner, outer = (0.0, 0.0) if sd == 0 else _factors(freedom, share)
    return result | {
        "low": bias - half_width,
        "high": bias + half_width,
        "low_interval": (bias - outer * sd, bias - inner * sd),
        "high_interval": (bias + inner * sd, bias + outer * sd),
    }


def _deviation(differences, numbers, cases, means):
    """(standard deviation of a single difference, its degrees of freedom, share of its variance
    that is the squared standard error of the bias)."""
    patients, repeats = len(cases), len(differences) - len(cases)
    inverse = float((1 / cases).mean())  # of the harmonic mean of the number of cases
    within = float(((differences - means[numbers]) ** 2).sum() / repeats) if repeats else 0.0
    # The variance of the patients' means holds the component within at least.
    of_means = max(float(means.var(ddof=1)), within * inverse)
    rest = (1 - inverse) * within
    total = of_means + rest
    if total == 0:
        return 0.0, 1.0, 1.0
    spread = of_means**2 / (patients - 1) + (rest**2 / repeats if repeats else 0.0)
    return total**0.5, total**2 / spread, of_means / total / patients


def _factors(freedom, share):
    """Standard deviations from the bias to the inner and outer end of a limit's interval."""
    scale = share**0.5
    tail = (1 - LEVEL) / 2
    inner, outer = stats.nct.ppf((tail, 1 - tail), freedom, _Z / scale) * scale
    return float(inner), float(outer)
