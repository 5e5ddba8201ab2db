"""The result of each evaluated case, and summaries over cases."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from brats_tfrecord import metrics
from brats_tfrecord.evaluation.intervals import bootstrap_means, patient_means

USES = ("unseen", "select", "train")
"""How the model used a case, most independent first: not at all, to choose the epoch, to train."""

STATUSES = ("ok", "unlabelled", "failed")

Summary = dict[str, dict[str, dict[str, float | None]]]
"""Structure -> metric -> statistic -> value, as `summary` returns it."""


@dataclass(frozen=True)
class CaseResult:
    """The result of one case.

    Attributes:
        case_id, patient_id: identifiers from the cohort.
        grade: "HGG", "LGG", or None if unknown.
        use: one of `USES`.
        status: "ok" (compared with the true mask), "unlabelled" (segmented only) or "failed".
        reason: one line on why the case failed; None otherwise.
        metrics: return value of `metrics.case_metrics`; None unless `status` is "ok".
        volumes_ml: predicted volume of each tumour class and region in millilitres; None if the
            case failed.
        truth_ml: true volumes, as `volumes_ml`; None unless `status` is "ok".
        rano: `metrics.rano.TumourBurden` of the prediction as a mapping; None if the case failed.
        truth_rano: that of the true mask; None unless `status` is "ok".
        confusion: number of voxels of true class i predicted as class j, as nested lists with the
            background included; None unless `status` is "ok".
        crop: shares of the tissue outside the recipe's window, {"brain": share, "tumour": share of
            the true tumour, None without tumour}; None if the case failed.
        stages: seconds of each stage, or None.
        seconds: total time of the case, or None.
        post_processing: changes made by post-processing, one short text each; may be empty.
        warnings: anomalies of the input and reasons to distrust the segmentation, one short text
            each; may be empty.
        recognised_by: ground on which the model recognised the case, "case id", "same scan" or
            "patient" (`serving.recognition`); None if it is unseen.
        missing: names of the model's modalities that the case lacked, or that were dropped.
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
    rano: Mapping[str, float | None] | None = None
    truth_rano: Mapping[str, float | None] | None = None
    confusion: list[list[int]] | None = None
    crop: Mapping[str, float | None] | None = None
    stages: Mapping[str, float] | None = None
    seconds: float | None = None
    post_processing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    recognised_by: str | None = None
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
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


def compared(rows: Sequence[CaseResult], use: str) -> list[CaseResult]:
    """Returns the rows of this `use` that have metrics."""
    return [row for row in rows if row.use == use and row.status == "ok"]


def headline_use(rows: Sequence[CaseResult]) -> str | None:
    """Returns the first of `USES` with a compared case, or None if no case has metrics."""
    return next((use for use in USES if compared(rows, use)), None)


def headline_rows(rows: Sequence[CaseResult]) -> list[CaseResult]:
    """Returns the compared rows of `headline_use`; empty if no case has metrics."""
    use = headline_use(rows)
    return [] if use is None else compared(rows, use)


def structures(rows: Sequence[CaseResult]) -> list[str]:
    """Returns the names of the structures in the rows' metrics, in the order of tables."""
    return next(
        (list(row.metrics) for row in rows if row.metrics is not None), list(metrics.structures(4))
    )


def summary(rows: Sequence[CaseResult], rule_set: metrics.RuleSet, use: str = "unseen") -> Summary:
    """Summarises the compared cases of one `use`.

    Args:
        rows: results of the evaluation.
        rule_set: the rule set of their metrics.
        use: one of `USES`.

    Returns:
        structure -> metric -> {"mean", "median", "sd", "low", "high", "n", "patients"}. Cases
        whose value is None are not counted in n; "patients" are those of the n cases. `sd` is the
        sample standard deviation (n - 1), None below two cases. `low` and `high` are the 95 %
        confidence interval of the mean (`intervals.bootstrap_means`), None below two patients.
        Mean and median are None if n is 0.
    """
    selected = compared(rows, use)
    columns = [(structure, metric) for structure in structures(rows) for metric in rule_set.metrics]
    values = np.array(
        [
            [row.metrics[structure][metric] for structure, metric in columns]
            for row in selected
            if row.metrics is not None
        ],
        float,
    ).reshape(len(selected), len(columns))
    patients = [row.patient_id for row in selected]
    intervals = bootstrap_means(values, patients)
    counts = np.count_nonzero(~np.isnan(patient_means(values, patients)), axis=0).tolist()
    result: Summary = {structure: {} for structure in structures(rows)}
    for (structure, metric), column, interval, count in zip(columns, values.T, intervals, counts):
        low, high = interval or (None, None)
        result[structure][metric] = {
            **_describe(column[~np.isnan(column)].tolist()),
            "low": low,
            "high": high,
            "patients": count,
        }
    return result


def _describe(values):
    return {
        "mean": statistics.fmean(values) if values else None,
        "median": statistics.median(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
    }
