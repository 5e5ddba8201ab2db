"""Writes an evaluation as one self-contained HTML file."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from brats_tfrecord import files, metrics, spec
from brats_tfrecord.evaluation import (
    case_results,
    intervals,
    signed_rank,
    tallies,
    volume_agreement,
)
from brats_tfrecord.evaluation.case_results import CaseResult
from brats_tfrecord.evaluation.compare import Comparison
from brats_tfrecord.metrics import rano
from brats_tfrecord.report import charts
from brats_tfrecord.report.figures import to_png
from brats_tfrecord.report.gallery import Picture
from brats_tfrecord.wording import plural

MAX_PICTURE_BYTES = 5 << 20
"""Total size of the pictures; more are left out, so that the file stays below 10 MB for e-mail."""

_USE_TITLES = {
    "unseen": "unseen: not used by the model",
    "select": "select: used to choose the best epoch, so the results are optimistic",
    "train": "train: used to fit the model, so the results are the most optimistic",
}
_HIGHER_IS_BETTER = {"dice", "nsd_1mm", "nsd_2mm", "sensitivity", "specificity", "lesion_dice"}
_LOWER_IS_BETTER = {
    "hd95",
    "hd95_pooled",
    "hd100",
    "assd",
    "lesion_hd95",
    "missed_lesions",
    "false_lesions",
}
_CASE_METRICS = ("dice", "hd95", "sensitivity")
_LESION_CASE_METRICS = ("lesion_dice", "lesion_hd95", "dice")
"""Metrics in the table of all cases, by rule sets without and with lesion-wise metrics."""


def write_report(
    path: Path | str,
    *,
    header: Mapping[str, Any],
    rows: Sequence[CaseResult],
    rule_set: metrics.RuleSet,
    pictures: Sequence[Picture],
    baselines: Sequence[tuple[str, Mapping[str, float]]] = (),
    comparison: Comparison | None = None,
) -> None:
    """Writes the report: headline over unseen cases, distributions, pictures, all cases, costs.

    The file loads nothing from elsewhere, its content security policy allows only its own script
    by hash, and all text from outside is escaped. Results of cases that trained or selected the
    model are shown separately and labelled as such.

    Args:
        path: the HTML file; replaced atomically.
        header: name -> text, number, list or mapping, printed in this order; None is printed as a
            dash. "evaluated", "model_sha256", "model_modalities", "brain_channel", "members",
            "flips" and "trained_on_dataset_sha256", where present, are also part of the subtitle.
        rows: results of the evaluation.
        rule_set: the rule set of their metrics.
        pictures: pictures in the order to show, as many as fit into `MAX_PICTURE_BYTES`.
        baselines: (name, region -> mean Dice) of simpler methods over the cases of the first
            table; regions may be missing.
        comparison: comparison with another evaluation, or None.
    """
    environment = _environment(rule_set)
    script = environment.get_template("script.html").render()
    shown = _fitting(pictures)
    page = environment.get_template("page.html").render(
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        header=header,
        baselines=list(baselines),
        comparison=comparison,
        pairs_figure=_data_uri(charts.pairs_figure(comparison.pairs)) if comparison else None,
        pictures=[(picture, _png_uri(picture.png)) for picture in shown],
        pictures_left_out=len(pictures) - len(shown),
        **_case_context(rows, rule_set),
    )
    files.write_text(path, page)


def few_patients(table: Mapping[str, Mapping[str, Mapping]], structures: Iterable[str]) -> bool:
    """Tells whether an interval of a table is from fewer than `intervals.FEW_PATIENTS` patients.

    Args:
        table: structure -> metric -> {"low", "patients", …}, a `case_results.Summary` or the
            `table` of a comparison.
        structures: the structures to look at.
    """
    return any(
        entry["low"] is not None and entry["patients"] < intervals.FEW_PATIENTS
        for structure in structures
        for entry in table[structure].values()
    )


def _environment(rule_set):
    """The jinja2 environment with the filters and constants of the templates."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("brats_tfrecord", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "percent": _percent,
        "count": _count,
        "label": _label,
        "words": _words,
        "plural": plural,
    }
    environment.globals |= {
        "spec": spec,
        "titles": metrics.METRIC_TITLES,
        "decimals": metrics.METRIC_DECIMALS,
        "rule_set": rule_set,
        "verdict": _verdict,
        "few_here": few_patients,
        "blocks": _blocks(rule_set),
        "by_lesion": "missed_lesions" in rule_set.metrics,
        "case_metrics": (
            _LESION_CASE_METRICS if "lesion_dice" in rule_set.metrics else _CASE_METRICS
        ),
        "min_patients_for_limits": volume_agreement.MIN_PATIENTS_FOR_LIMITS,
        "min_differences": signed_rank.MIN_DIFFERENCES,
        "few_patients": intervals.FEW_PATIENTS,
        "measurable_mm": rano.MEASURABLE_MM,
        "thick_mm": rano.THICK_MM,
        "max_targets": rano.MAX_TARGETS,
        "few_patients_note": intervals.FEW_PATIENTS_NOTE,
    }
    return environment


def _case_context(rows, rule_set):
    """Template variables that depend on the cases."""
    groups = _groups(rows, rule_set)
    return {
        "rows": sorted(rows, key=lambda row: row.status != "failed"),
        "failures": [row for row in rows if row.status == "failed"],
        "warnings": _cases_of_warnings(rows),
        "unlabelled": sum(row.status == "unlabelled" for row in rows),
        "compared": sum(row.status == "ok" for row in rows),
        "groups": groups,
        "has_headline": bool(case_results.compared(rows, "unseen")),
        "headline": groups[0] if groups else None,
        "by_missing": tallies.dice_by_missing(case_results.headline_rows(rows)),
        "classes": [name for name in spec.CLASS_NAMES[1:] if name in case_results.structures(rows)],
        "crop_losses": [
            (use, tallies.crop_losses([row for row in rows if row.use == use]))
            for use in case_results.USES
        ],
        "stage_times": tallies.stage_times(rows),
    }


def _cases_of_warnings(rows):
    """{warning: ids of its cases}, in the order of the rows."""
    cases: dict[str, list[str]] = {}
    for row in rows:
        for warning in row.warnings:
            cases.setdefault(warning, []).append(row.case_id)
    return cases


def _groups(rows, rule_set):
    """One dict per use with compared cases, most independent first; the first has charts."""
    groups: list[dict] = []
    for use in case_results.USES:
        compared = case_results.compared(rows, use)
        if compared:
            groups.append(
                {
                    "use": use,
                    "title": _USE_TITLES[use],
                    "cases": len(compared),
                    "patients": len({row.patient_id for row in compared}),
                    "summary": case_results.summary(rows, rule_set, use),
                }
            )
            if len(groups) == 1:
                groups[0] |= _agreement(compared, rule_set)
    return groups


def _agreement(compared, rule_set):
    """Charts, confusion matrix and agreement of volumes over compared cases."""
    measured = [row for row in compared if row.truth_ml and row.volumes_ml]
    return {
        "distribution": _data_uri(charts.distribution_figure(compared, rule_set.metrics)),
        "confusion": tallies.confusion(compared),
        "volumes": _data_uri(charts.volume_figure(measured)),
        "agreement": {
            region: volume_agreement.agreement(measured, region) for region in spec.REGIONS
        },
        "measured": len(measured),
        "measured_patients": len({row.patient_id for row in measured}),
    }


def _blocks(rule_set):
    """(title, metrics) of each table of a summary; lesion-wise metrics have one of their own."""
    whole = [name for name in rule_set.metrics if "lesion" not in name]
    lesions = [name for name in rule_set.metrics if "lesion" in name]
    if not lesions:
        return [(None, whole)]
    return [("Lesion by lesion", lesions), ("Whole structures", whole)]


def _fitting(pictures):
    """The first pictures, as many as fit into `MAX_PICTURE_BYTES`."""
    total, shown = 0, []
    for picture in pictures:
        total += len(picture.png)
        if total > MAX_PICTURE_BYTES:
            break
        shown.append(picture)
    return shown


def _verdict(metric, entry):
    """Returns "better" or "worse" if interval and test both exclude chance, otherwise "".

    The interval of the difference excludes 0, and the exact test has p below `signed_rank.ALPHA`,
    which it cannot have below `signed_rank.MIN_DIFFERENCES` non-zero differences.
    """
    if entry["p"] is None or entry["p"] >= signed_rank.ALPHA:
        return ""
    if entry["low"] is None or entry["low"] <= 0 <= entry["high"]:
        return ""
    higher = entry["low"] > 0
    if metric in _HIGHER_IS_BETTER:
        return "better" if higher else "worse"
    if metric in _LOWER_IS_BETTER:
        return "worse" if higher else "better"
    return ""


def _number(value, decimals, sign=""):
    """Formats a number with fixed decimals and a true minus sign; None is an en dash."""
    if value is None:
        return "–"
    text = f"{value:{sign}.{decimals}f}"
    if not text.strip("+-0."):
        text = text.lstrip("+-")  # zero has no sign
    return text.replace("-", "−")


def _percent(share, decimals=1):
    """Formats a share in per cent; a non-zero share is never rounded to zero."""
    if share is None:
        return "–"
    least = 10.0**-decimals
    if 0 < share * 100 < least:
        return f"< {least:.{decimals}f} %"
    return f"{share * 100:.{decimals}f} %"


def _count(number):
    """Formats an integer in groups of three digits."""
    return f"{number:,}".replace(",", "\u202f")


def _label(name):
    """Formats a key such as "model_sha256" as words."""
    return str(name).replace("_", " ")


def _words(value):
    """Formats a value of the header as text; mappings and lists in full."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "; ".join(f"{_label(key)} {_words(item)}" for key, item in value.items()) or "–"
    if isinstance(value, (list, tuple)):
        items = (
            f"[{_words(item)}]" if isinstance(item, (list, tuple)) else _words(item)
            for item in value
        )
        return ", ".join(items) or "–"
    return str(value)


def _data_uri(chart):
    """A chart as a data URI; None stays None."""
    return None if chart is None else _png_uri(to_png(chart, charts.DPI))


def _png_uri(png):
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
