"""Writes the tables of an evaluation: metrics.csv and metrics.json."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from brats_tfrecord import files, spec
from brats_tfrecord.evaluation import case_results
from brats_tfrecord.evaluation.case_results import CaseResult
from brats_tfrecord.evaluation.compare import Comparison
from brats_tfrecord.metrics import RuleSet
from brats_tfrecord.wording import csv_cell

_TEXT_COLUMNS = ("case_id", "patient_id", "grade", "use", "recognised_by", "status", "reason")
_RANO_COLUMNS = {"rano": "rano", "rano_truth": "truth_rano"}
"""Prefix of a column -> attribute of a `CaseResult`."""


def write_csv(path: Path | str, rows: Sequence[CaseResult], rule_set: RuleSet) -> None:
    """Writes one line per case, with all attributes of a `CaseResult` except `confusion`.

    Columns: case_id, patient_id, grade, use, recognised_by, status, reason; missing (if any case
    lacks a modality); STRUCTURE_metric;
    NAME_ml (predicted) and NAME_truth_ml; rano_NAME and rano_truth_NAME
    (`metrics.rano.TumourBurden`); crop_brain_lost and crop_tumour_lost (shares); post_processing;
    warnings; seconds_STAGE and seconds, the only columns that differ between runs. Numbers have
    full precision; undefined or missing values are empty cells. Text that a spreadsheet would
    interpret as a formula is prefixed with an apostrophe.
    """
    table = io.StringIO()
    cells = [_cells(row, rule_set) for row in rows]
    writer = csv.DictWriter(table, _columns(rows, rule_set), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    files.write_text(path, table.getvalue())


def write_json(
    path: Path | str,
    rows: Sequence[CaseResult],
    rule_set: RuleSet,
    header: dict,
    comparison: Comparison | None = None,
    identity: dict | None = None,
) -> None:
    """Writes {"header", "rules", "hd95", "summary", "rows", "comparison", "identity"}.

    "hd95" is the definition of HD95, "summary" a summary of each use. Undefined values are null.

    Args:
        path: the file; replaced atomically.
        rows: results of the evaluation.
        rule_set: the rule set of their metrics.
        header: model, recipe, versions and settings behind the results; JSON-serialisable.
        comparison: comparison with another evaluation, or None.
        identity: flag -> value of everything that affects all cases alike; JSON-serialisable.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot represent.
    """
    files.write_json(
        path,
        {
            "header": header,
            "rules": rule_set.name,
            "hd95": rule_set.hd95_definition,
            "summary": {
                use: case_results.summary(rows, rule_set, use) for use in case_results.USES
            },
            "rows": [asdict(row) for row in rows],
            "comparison": None if comparison is None else asdict(comparison),
            "identity": identity,
        },
    )


def _columns(rows, rule_set):
    """Columns in reading order; a volume or a stage has a column if any row has it."""
    scores = [
        f"{structure}_{metric}"
        for structure in case_results.structures(rows)
        for metric in rule_set.metrics
    ]
    names = list(dict.fromkeys([*spec.CLASS_NAMES, *spec.REGIONS]))
    volumes = [
        f"{name}_{suffix}"
        for suffix, attribute in (("ml", "volumes_ml"), ("truth_ml", "truth_ml"))
        for name in names
        if any(name in (getattr(row, attribute) or ()) for row in rows)
    ]
    diameters = [
        f"{prefix}_{name}"
        for prefix, attribute in _RANO_COLUMNS.items()
        for name in dict.fromkeys(name for row in rows for name in getattr(row, attribute) or ())
    ]
    stages = dict.fromkeys(stage for row in rows for stage in row.stages or ())
    return [
        *_TEXT_COLUMNS,
        *(["missing"] if any(row.missing for row in rows) else []),
        *scores,
        *volumes,
        *diameters,
        "crop_brain_lost",
        "crop_tumour_lost",
        "post_processing",
        "warnings",
        *map(_stage_column, stages),
        "seconds",
    ]


def _cells(row, rule_set):
    """Column -> cell of one row; missing cells are left out."""
    cells = {name: csv_cell(getattr(row, name)) for name in _TEXT_COLUMNS}
    for name in ("post_processing", "warnings"):
        cells[name] = csv_cell("; ".join(getattr(row, name)))
    if row.missing:
        cells["missing"] = ",".join(row.missing)
    for structure, scores in (row.metrics or {}).items():
        cells |= {f"{structure}_{metric}": scores[metric] for metric in rule_set.metrics}
    cells |= {f"{name}_ml": volume for name, volume in (row.volumes_ml or {}).items()}
    cells |= {f"{name}_truth_ml": volume for name, volume in (row.truth_ml or {}).items()}
    for prefix, attribute in _RANO_COLUMNS.items():
        burden = getattr(row, attribute) or {}
        cells |= {f"{prefix}_{name}": value for name, value in burden.items()}
    cells |= {f"crop_{tissue}_lost": share for tissue, share in (row.crop or {}).items()}
    cells |= {_stage_column(stage): time for stage, time in (row.stages or {}).items()}
    return cells | {"seconds": row.seconds}


def _stage_column(stage):
    return f"seconds_{stage.replace(' ', '_')}"
