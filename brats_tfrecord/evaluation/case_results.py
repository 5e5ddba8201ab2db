"""The result of each case of an evaluation, and their summary."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from brats_tfrecord import metrics
from brats_tfrecord.evaluation.intervals import bootstrap_means

USES = ("unseen", "select", "train")
"""What a case was to the model, best evidence first: never seen, chose the model, trained it."""

STATUSES = ("ok", "unlabelled", "failed")


@dataclass(frozen=True)
class CaseResult:
    """One case of an evaluation.

    Attributes:
        case_id, patient_id: as in the cohort.
        grade: "HGG", "LGG" or None where it is not known.
        use: one of `USES`.
        status: "ok" (compared with its truth), "unlabelled" (segmented only) or "failed".
        reason: why it failed, one line; None otherwise.
        metrics: what `metrics.case_metrics` returns; None unless `status` is "ok".
        volumes_ml: tumour class and region name -> millilitres predicted; None if it failed.
        truth_ml: the same of the truth; None unless `status` is "ok".
        confusion: voxels of true class i predicted as class j, a list of lists of int, background
            included; None unless `status` is "ok".
        crop: {"brain": share of the brain, "tumour": of the true tumour (None without any)} that
            lies outside the recipe's window; None if it failed.
        stages: stage -> seconds, or None.
        seconds: time the case took, or None.
        post_processing: what post-processing changed in this case, short texts; may be empty.
        warnings: why its figures may mean little, short texts; may be empty.
    """

    case_id: str
    patient_id: str
    grade: str | None
    use: str
    status: str
    reason: str | None = None
    metrics: Mapping[str, Mapping[str, float | None]] | None = None
    volumes_ml: Mapping[str, float] | None = None
    truth_ml: Mapping[str, float] | None = None
    confusion: list[list[int]] | None = None
    crop: Mapping[str, float | None] | None = None
    stages: Mapping[str, float] | None = None
    seconds: float | None = None
    post_processing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self):
        if self.use not in USES:
            raise ValueError(f"{self.case_id}: use is {self.use!r}; expected one of {USES}")
        if self.status not in STATUSES:
            raise ValueError(
                f"{self.case_id}: status is {self.status!r}; expected one of {STATUSES}"
            )
        if (self.status == "ok") != (self.metrics is not None):
            raise ValueError(
                f"{self.case_id}: status is {self.status!r}, metrics is {self.metrics}; expected "
                "metrics if, and only if, the status is 'ok'"
            )


def compared(rows, use):
    """Returns the rows of that `use` which have metrics."""
    return [row for row in rows if row.use == use and row.status == "ok"]


def headline_use(rows):
    """The best evidence there is: unseen cases, else those that selected, else that trained.

    None where no case has metrics.
    """
    return next((use for use in USES if compared(rows, use)), None)


def structures(rows):
    """Names of the structures that the rows have metrics of, in the order of tables."""
    return next(
        (list(row.metrics) for row in rows if row.metrics is not None), list(metrics.structures(4))
    )


def summary(rows, rule_set, use="unseen"):
    """Sums up the cases of one `use` that have metrics.

    Args:
        rows: `CaseResult`s.
        rule_set: the `metrics.RuleSet` that their metrics follow.
        use: one of `USES`.

    Returns:
        structure -> metric -> {"mean", "median", "sd", "low", "high", "n"}; a figure that is None
        for a case does not count in n. `sd` is the sample deviation (n - 1), None below two cases;
        low and high are the 95 % interval of the mean (`intervals.bootstrap_means`), None below
        two patients; mean and median are None where n is 0.
    """
    chosen = compared(rows, use)
    columns = [(structure, metric) for structure in structures(rows) for metric in rule_set.metrics]
    values = np.array(
        [[row.metrics[structure][metric] for structure, metric in columns] for row in chosen], float
    ).reshape(len(chosen), len(columns))
    intervals = bootstrap_means(values, [row.patient_id for row in chosen])
    result = {structure: {} for structure in structures(rows)}
    for (structure, metric), column, interval in zip(columns, values.T, intervals):
        low, high = interval or (None, None)
        result[structure][metric] = {
            **_describe(column[~np.isnan(column)].tolist()),
            "low": low,
            "high": high,
        }
    return result


def _describe(known):
    return {
        "mean": statistics.fmean(known) if known else None,
        "median": statistics.median(known) if known else None,
        "sd": statistics.stdev(known) if len(known) > 1 else None,
        "n": len(known),
    }
