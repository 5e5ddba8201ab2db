"""The evaluation as one self-contained HTML file."""

import base64

import jinja2

from brats_tfrecord import files, metrics, spec
from brats_tfrecord.report import figures, tables

MAX_PICTURE_BYTES = 5 << 20
"""Pictures beyond this sum are left out, so that the file stays below 10 MB and can be mailed."""

_METRIC_TITLES = {
    "dice": "Dice",
    "hd95": "HD95 (mm)",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
}
_DECIMALS = {"dice": 3, "hd95": 2, "sensitivity": 3, "specificity": 4}
_USE_TITLES = {
    "unseen": "unseen: never met by the model",
    "select": "select: chose the best epoch, so they flatter the model",
    "train": "train: the model was fitted to them, so they flatter it most",
}


def write_report(path, *, header, rows, pictures, baselines=()):
    """Writes the report: headline over unseen cases, distributions, every case, pictures.

    The file makes no request of its own, and every name from outside is escaped. Figures of
    cases that trained or selected the model stand apart and are labelled as such.

    Args:
        path: the HTML file; replaced whole or not at all.
        header: what the figures rest on, in the order to print: name -> text or number, or a
            list or mapping of such (fingerprints, recipe, versions); None prints as a dash.
        rows: `tables.CaseResult`, one a case.
        pictures: (case_id, caption, PNG bytes) of cases; from the first on, as many as fit into
            `MAX_PICTURE_BYTES`.
        baselines: (name, region -> mean Dice) of simpler methods over the cases of the first
            table, the unseen ones if there are any; a region without a figure may be missing.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("brats_tfrecord", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "label": _label}
    shown = _fitting(pictures)
    files.write_text(path, environment.get_template("template.html").render(
        header=header,
        rows=rows,
        failures=[row for row in rows if row.status == "failed"],
        unlabelled=sum(row.status == "unlabelled" for row in rows),
        groups=_groups(rows),
        has_headline=bool(tables.compared(rows, "unseen")),
        baselines=list(baselines),
        volume_names=_volume_names(rows),
        pictures=[(case_id, caption, _data_uri(png)) for case_id, caption, png in shown],
        pictures_left_out=len(pictures) - len(shown),
        spec=spec,
        metrics=metrics.METRICS,
        metric_titles=_METRIC_TITLES,
        decimals=_DECIMALS,
        rules=metrics.RULES,
        rules_text=metrics.RULES_TEXT,
    ))


def _groups(rows):
    """One block for every use that has compared cases, best evidence first."""
    groups = []
    for use in tables.USES:
        compared = tables.compared(rows, use)
        if compared:
            groups.append({
                "use": use,
                "title": _USE_TITLES[use],
                "cases": len(compared),
                "patients": len({row.patient_id for row in compared}),
                "summary": tables.summary(rows, use),
                "distribution": _data_uri(figures.distribution_figure(compared)),
            })
    return groups


def _volume_names(rows):
    named = set().union(*(row.volumes_ml or () for row in rows))
    return [name for name in spec.CLASS_NAMES if name in named]


def _fitting(pictures):
    total, shown = 0, []
    for picture in pictures:
        total += len(picture[2])
        if total > MAX_PICTURE_BYTES:
            break
        shown.append(picture)
    return shown


def _number(value, decimals):
    """`value` with fixed decimals; an en dash where it is undefined."""
    return "–" if value is None else f"{value:.{decimals}f}"


def _label(name):
    """A key such as "model_sha256" as words."""
    return name.replace("_", " ")


def _data_uri(png):
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
