"""How well predicted volumes agree with true ones (Bland and Altman 1986, Lancet 327:307)."""

import statistics
from dataclasses import dataclass

LIMITS_FROM = 5
"""Below so many cases a standard deviation says too little to draw limits from it."""


@dataclass(frozen=True)
class Agreement:
    """Volumes of one region over cases, in mL.

    Attributes:
        means: mean of truth and prediction of each case.
        differences: prediction - truth of each case.
        truth, predicted: mean volumes; None without a case.
        bias: mean difference; None below two cases.
        low, high: limits of agreement, bias -/+ 1.96 sample standard deviations of the
            differences; None below `LIMITS_FROM` cases.
    """

    means: list[float]
    differences: list[float]
    truth: float | None = None
    predicted: float | None = None
    bias: float | None = None
    low: float | None = None
    high: float | None = None


def agreement(rows, region):
    """Compares the volumes of one region.

    Args:
        rows: `tables.CaseResult`s that have `volumes_ml` and `truth_ml`.
        region: a key of both.

    Returns:
        `Agreement`.
    """
    truth = [row.truth_ml[region] for row in rows]
    predicted = [row.volumes_ml[region] for row in rows]
    differences = [after - before for before, after in zip(truth, predicted)]
    means = [(before + after) / 2 for before, after in zip(truth, predicted)]
    if not rows:
        return Agreement(means, differences)
    bias = statistics.fmean(differences)
    reach = 1.96 * statistics.stdev(differences) if len(rows) >= LIMITS_FROM else None
    return Agreement(
        means,
        differences,
        statistics.fmean(truth),
        statistics.fmean(predicted),
        bias=bias if len(rows) > 1 else None,
        low=None if reach is None else bias - reach,
        high=None if reach is None else bias + reach,
    )
