"""The rows of an evaluation, their summary, `metrics.csv` and `metrics.json`."""

import csv
import io
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from brats_tfrecord import files, metrics, spec

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
        volumes_ml: class name (`spec.CLASS_NAMES`) -> millilitres predicted; None if it failed.
        seconds: time the case took, or None.
    """

    case_id: str
    patient_id: str
    grade: str | None
    use: str
    status: str
    reason: str | None = None
    metrics: Mapping[str, Mapping[str, float | None]] | None = None
    volumes_ml: Mapping[str, float] | None = None
    seconds: float | None = None

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


def summary(rows, use="unseen"):
    """Sums up the cases of one `use` that have metrics.

    Returns:
        region -> metric -> {"mean", "median", "sd", "n"}; a figure that is None for a case does
        not count in n. `sd` is the sample deviation (n - 1), None below two cases; mean and
        median are None where n is 0.
    """
    chosen = compared(rows, use)
    return {
        region: {
            metric: _describe([row.metrics[region][metric] for row in chosen])
            for metric in metrics.METRICS
        }
        for region in spec.REGIONS
    }


def write_csv(path, rows):
    """Writes one line a case: identity, status, region_metric columns, volumes, seconds.

    Numbers keep full precision; what is undefined or not there is an empty cell.
    """
    table = io.StringIO()
    flat = [_flat(row) for row in rows]
    writer = csv.DictWriter(table, _columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    files.write_text(path, table.getvalue())


def write_json(path, rows, header):
    """Writes {"header", "rules", "summary": {use: ...}, "rows"}; undefined figures are null.

    Args:
        header: what the figures rest on (model and dataset fingerprints, versions), JSON-safe.

    Raises:
        ValueError: a number is NaN or infinite, which JSON does not know.
    """
    files.write_json(path, {
        "header": header,
        "rules": metrics.RULES,
        "summary": {use: summary(rows, use) for use in USES},
        "rows": [asdict(row) for row in rows],
    })


def _describe(values):
    known = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(known) if known else None,
        "median": statistics.median(known) if known else None,
        "sd": statistics.stdev(known) if len(known) > 1 else None,
        "n": len(known),
    }


def _columns(rows):
    """Columns in reading order; a class has a volume column if any row has its volume."""
    identity = ["case_id", "patient_id", "grade", "use", "status", "reason"]
    figures = [f"{region}_{metric}" for region in spec.REGIONS for metric in metrics.METRICS]
    volumes = [f"{name}_ml" for name in spec.CLASS_NAMES
               if any(name in (row.volumes_ml or ()) for row in rows)]
    return [*identity, *figures, *volumes, "seconds"]


def _flat(row):
    cells = {name: getattr(row, name) for name in
             ("case_id", "patient_id", "grade", "use", "status", "reason", "seconds")}
    for region, figures in (row.metrics or {}).items():
        cells |= {f"{region}_{metric}": figures[metric] for metric in metrics.METRICS}
    cells |= {f"{name}_ml": volume for name, volume in (row.volumes_ml or {}).items()}
    return cells
