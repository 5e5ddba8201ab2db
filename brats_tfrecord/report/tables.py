"""The tables of an evaluation as files: metrics.csv and metrics.json."""

import csv
import io
from dataclasses import asdict

from brats_tfrecord import files, spec
from brats_tfrecord.evaluation import case_results
from brats_tfrecord.wording import csv_cell

_IDENTITY = ("case_id", "patient_id", "grade", "use", "status", "reason")


def write_csv(path, rows, rule_set):
    """Writes one line a case, all of a `case_results.CaseResult` but its confusion matrix.

    Columns: identity; STRUCTURE_metric; NAME_ml (predicted) and NAME_truth_ml; crop_brain_lost and
    crop_tumour_lost (shares); post_processing; warnings; seconds_STAGE and seconds, the only ones
    that differ from run to run. Numbers keep full precision; what is undefined or not there is an
    empty cell. Text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    table = io.StringIO()
    flat = [_flat(row, rule_set) for row in rows]
    writer = csv.DictWriter(table, _columns(rows, rule_set), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    files.write_text(path, table.getvalue())


def write_json(path, rows, rule_set, header, comparison=None, identity=None):
    """Writes {"header", "rules", "summary": {use: ...}, "rows", "comparison", "identity"}.

    What is undefined is null.

    Args:
        path: the file; replaced whole or not at all.
        rows: `case_results.CaseResult`s.
        rule_set: the `metrics.RuleSet` that their metrics follow.
        header: what the figures rest on (model and dataset fingerprints, versions), JSON-safe.
        comparison: `compare.Comparison` with another evaluation, or None.
        identity: what shapes every row alike, as in `journal.opened`; JSON-safe.

    Raises:
        ValueError: a number is NaN or infinite, which JSON does not know.
    """
    files.write_json(
        path,
        {
            "header": header,
            "rules": rule_set.name,
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
    figures = [
        f"{structure}_{metric}"
        for structure in case_results.structures(rows)
        for metric in rule_set.metrics
    ]
    names = list(dict.fromkeys([*spec.CLASS_NAMES, *spec.REGIONS]))
    volumes = [
        f"{name}_{what}"
        for what, of in (("ml", "volumes_ml"), ("truth_ml", "truth_ml"))
        for name in names
        if any(name in (getattr(row, of) or ()) for row in rows)
    ]
    stages = dict.fromkeys(stage for row in rows for stage in row.stages or ())
    return [
        *_IDENTITY,
        *figures,
        *volumes,
        "crop_brain_lost",
        "crop_tumour_lost",
        "post_processing",
        "warnings",
        *map(_stage_column, stages),
        "seconds",
    ]


def _flat(row, rule_set):
    cells = {name: csv_cell(getattr(row, name)) for name in _IDENTITY}
    cells |= {
        "seconds": row.seconds,
        **{
            name: csv_cell("; ".join(getattr(row, name)))
            for name in ("post_processing", "warnings")
        },
    }
    for structure, figures in (row.metrics or {}).items():
        cells |= {f"{structure}_{metric}": figures[metric] for metric in rule_set.metrics}
    cells |= {f"{name}_ml": volume for name, volume in (row.volumes_ml or {}).items()}
    cells |= {f"{name}_truth_ml": volume for name, volume in (row.truth_ml or {}).items()}
    cells |= {f"crop_{what}_lost": share for what, share in (row.crop or {}).items()}
    return cells | {_stage_column(stage): time for stage, time in (row.stages or {}).items()}


def _stage_column(stage):
    return f"seconds_{stage.replace(' ', '_')}"
