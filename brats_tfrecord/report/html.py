"""The evaluation as one self-contained HTML file."""

import base64
import hashlib

import jinja2

from brats_tfrecord import files, metrics, spec
from brats_tfrecord.evaluation import case_results, tallies, volumes
from brats_tfrecord.report import charts
from brats_tfrecord.wording import plural

MAX_PICTURE_BYTES = 5 << 20
"""Pictures beyond this sum are left out, so that the file stays below 10 MB and can be mailed."""

_USE_TITLES = {
    "unseen": "unseen: never met by the model",
    "select": "select: chose the best epoch, so they flatter the model",
    "train": "train: the model was fitted to them, so they flatter it most",
}
_HIGHER_IS_BETTER = {"dice", "sensitivity", "specificity", "lesion_dice"}
_LOWER_IS_BETTER = {"hd95", "hd100", "assd", "lesion_hd95", "missed_lesions", "false_lesions"}
_OF_A_CASE = ("dice", "hd95", "sensitivity")
_OF_A_CASE_BY_LESION = ("lesion_dice", "lesion_hd95", "dice")
"""Metrics of the table of every case, without and with lesions; metrics.csv has all."""


def write_report(path, *, header, rows, rule_set, pictures, baselines=(), comparison=None):
    """Writes the report: headline over unseen cases, distributions, pictures, every case, costs.

    The file makes no request of its own, allows no script but its own by its hash, and every
    name from outside is escaped. Figures of cases that trained or selected the model stand apart
    and are labelled as such.

    Args:
        path: the HTML file; replaced whole or not at all.
        header: what the figures rest on, in the order to print: name -> text or number, or a
            list or mapping of such (fingerprints, recipe, versions); None prints as a dash.
            "evaluated", "model_sha256", "model_modalities", "members", "flips" and
            "trained_on_dataset_sha256" also make the line below the title, if they are there.
        rows: `case_results.CaseResult`, one a case.
        rule_set: the `metrics.RuleSet` that the rows follow.
        pictures: `figures.Picture`s in the order to show; from the first on, as many as fit into
            `MAX_PICTURE_BYTES`.
        baselines: (name, region -> mean Dice) of simpler methods over the cases of the first
            table, the unseen ones if there are any; a region without a figure may be missing.
        comparison: `compare.Comparison` with another evaluation, or None.
    """
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
    }
    script = environment.get_template("script.html").render()
    shown = _fitting(pictures)
    groups = _groups(rows, rule_set)
    files.write_text(
        path,
        environment.get_template("page.html").render(
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
            header=header,
            rows=sorted(rows, key=lambda row: row.status != "failed"),
            failures=[row for row in rows if row.status == "failed"],
            unlabelled=sum(row.status == "unlabelled" for row in rows),
            compared=sum(row.status == "ok" for row in rows),
            groups=groups,
            has_headline=bool(case_results.compared(rows, "unseen")),
            headline=groups[0] if groups else None,
            blocks=_blocks(rule_set),
            classes=[
                name for name in spec.CLASS_NAMES[1:] if name in case_results.structures(rows)
            ],
            by_lesion="missed_lesions" in rule_set.metrics,
            case_metrics=(
                _OF_A_CASE_BY_LESION if "lesion_dice" in rule_set.metrics else _OF_A_CASE
            ),
            baselines=list(baselines),
            comparison=comparison,
            pairs_figure=_data_uri(charts.pairs_figure(comparison.pairs) if comparison else None),
            limits_from=volumes.LIMITS_FROM,
            crop_losses=[
                (use, tallies.crop_losses([row for row in rows if row.use == use]))
                for use in case_results.USES
            ],
            stage_times=tallies.stage_times(rows),
            pictures=[(picture, _data_uri(picture.png)) for picture in shown],
            pictures_left_out=len(pictures) - len(shown),
        ),
    )


def _groups(rows, rule_set):
    """One block for every use that has compared cases, best evidence first."""
    groups = []
    for use in case_results.USES:
        compared = case_results.compared(rows, use)
        if not compared:
            continue
        measured = [row for row in compared if row.truth_ml and row.volumes_ml]
        groups.append(
            {
                "use": use,
                "title": _USE_TITLES[use],
                "cases": len(compared),
                "patients": len({row.patient_id for row in compared}),
                "summary": case_results.summary(rows, rule_set, use),
            }
            | (
                {}
                if groups
                else {
                    "distribution": _data_uri(
                        charts.distribution_figure(compared, rule_set.metrics)
                    ),
                    "confusion": tallies.confusion(compared),
                    "volumes": _data_uri(charts.volume_figure(measured)),
                    "agreement": {
                        region: volumes.agreement(measured, region) for region in spec.REGIONS
                    },
                    "measured": len(measured),
                }
            )
        )
    return groups


def _blocks(rule_set):
    """(title, metrics) of each table of a summary; lesion by lesion apart from whole structures."""
    whole = [name for name in rule_set.metrics if "lesion" not in name]
    lesions = [name for name in rule_set.metrics if "lesion" in name]
    if not lesions:
        return [(None, whole)]
    return [("Lesion by lesion", lesions), ("Whole structures", whole)]


def _fitting(pictures):
    total, shown = 0, []
    for picture in pictures:
        total += len(picture.png)
        if total > MAX_PICTURE_BYTES:
            break
        shown.append(picture)
    return shown


def _verdict(metric, entry):
    """ "better" or "worse" where the interval of the paired difference excludes 0, or ""."""
    if entry["low"] is None or entry["low"] <= 0 <= entry["high"]:
        return ""
    higher = entry["low"] > 0
    if metric in _HIGHER_IS_BETTER:
        return "better" if higher else "worse"
    if metric in _LOWER_IS_BETTER:
        return "worse" if higher else "better"
    return ""


def _number(value, decimals, sign=""):
    """`value` with fixed decimals and a true minus; an en dash where it is undefined."""
    if value is None:
        return "–"
    text = f"{value:{sign}.{decimals}f}"
    if not text.strip("+-0."):
        text = text.lstrip("+-")  # no sign before what is shown as nothing
    return text.replace("-", "−")


def _percent(share, decimals=1):
    """A share in per cent; what is not nothing is never shown as nothing."""
    if share is None:
        return "–"
    least = 10.0**-decimals
    if 0 < share * 100 < least:
        return f"< {least:.{decimals}f} %"
    return f"{share * 100:.{decimals}f} %"


def _count(number):
    """An integer in groups of three digits."""
    return f"{number:,}".replace(",", "\u202f")


def _label(name):
    """A key such as "model_sha256" as words."""
    return str(name).replace("_", " ")


def _words(value):
    """A value of the header as text; mappings and lists in full."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "; ".join(f"{_label(key)} {_words(one)}" for key, one in value.items()) or "–"
    if isinstance(value, (list, tuple)):
        return (
            ", ".join(
                f"[{_words(one)}]" if isinstance(one, (list, tuple)) else _words(one)
                for one in value
            )
            or "–"
        )
    return str(value)


def _data_uri(png):
    return None if png is None else "data:image/png;base64," + base64.b64encode(png).decode("ascii")
