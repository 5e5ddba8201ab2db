"""The table, CSV, figure and JSON line of a comparison."""

import csv
import io
import json
import statistics
from collections.abc import Sequence

import numpy as np
from scipy import stats

from brats_tfrecord import spec
from brats_tfrecord.evaluation import intervals
from brats_tfrecord.report.figures import new_figure, to_png
from quality.settings import OURS

METRICS = ("dice", "hd95")
FIGURES = tuple(f"{metric}_{region}" for metric in METRICS for region in spec.REGIONS)
MEANS = tuple(f"{metric}_mean" for metric in METRICS)
LEVEL = 0.95
MOST_MINUTES = 1.05
"""Share of its minutes that a training may take; the table names those that take more."""


def summarise(
    contestants: Sequence[str], results: Sequence[dict], trainings: int, minutes: float
) -> list[dict]:
    """Summarises the results of every contestant.

    The unit is the patient: cases and seeds of a patient are averaged first.

    Args:
        contestants: names, in the order of the table.
        results: results of trainings, as the files hold them.
        trainings: number of trainings of each contestant.
        minutes: minutes that each training was given.

    Returns:
        One dict for each contestant with results: `contestant`, `patients`, `trainings`,
        `complete`, `late` (whether a training took over `MOST_MINUTES` of its minutes), the mean
        of each of `FIGURES` and `MEANS`, `dice_interval` (see `t_interval`),
        and the medians of `steps` and `minutes`.
    """
    rows = []
    for contestant in contestants:
        own = [result for result in results if result["contestant"] == contestant]
        if not own:
            continue
        patients, values = patient_table(own)
        means = dict(zip((*FIGURES, *MEANS), map(_mean, values.T)))
        rows.append(
            {
                "contestant": contestant,
                "patients": len(patients),
                "trainings": len(own),
                "complete": len(own) == trainings,
                "late": max(result["minutes"] for result in own) > MOST_MINUTES * minutes,
                **means,
                "dice_interval": t_interval(values[:, len(FIGURES)]),
                "steps": statistics.median(result["steps"] for result in own),
                "minutes": statistics.median(result["minutes"] for result in own),
            }
        )
    return rows


def patient_table(results) -> tuple[list[str], np.ndarray]:
    """Averages the figures of each patient over its cases and seeds.

    Returns:
        (patient ids, float64 [patients, len(FIGURES) + len(MEANS)]); NaN where undefined.
    """
    rows = [row for result in results for row in case_rows(result)]
    values = np.array([[row[name] for name in (*FIGURES, *MEANS)] for row in rows], float)
    patients = [row["patient"] for row in rows]
    return list(dict.fromkeys(patients)), intervals.patient_means(values, patients)


def case_rows(result: dict) -> list[dict]:
    """Lists the rows of a result's cases, with the mean over the regions of Dice and HD95."""
    rows = []
    for case_id, figures in result["cases"].items():
        means = {
            f"{metric}_mean": _mean([figures[f"{metric}_{region}"] for region in spec.REGIONS])
            for metric in METRICS
        }
        head = {name: result[name] for name in ("contestant", "seed", "fold")}
        rows.append({**head, "case": case_id, **figures, **means})
    return rows


def t_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Computes the 95 % confidence interval of a mean (Student's t); None below two values."""
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return None
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def difference(results, contestant: str, other: str) -> tuple[float, tuple[float, float] | None]:
    """Computes the mean difference in Dice of two contestants over the patients of both.

    Returns:
        (mean of contestant minus other, its interval as in `t_interval`).
    """
    dice = []
    for name in (contestant, other):
        own = [result for result in results if result["contestant"] == name]
        patients, values = patient_table(own)
        dice.append(dict(zip(patients, values[:, len(FIGURES)])))
    differences = np.array([dice[0][who] - dice[1][who] for who in dice[0] if who in dice[1]])
    return _mean(differences), t_interval(differences)


def to_text(rows, results) -> str:
    """Formats the table, and the difference between our first contestant and each other one."""
    regions = "".join(f"{region:>8}" for region in spec.REGIONS)
    lines = [
        f"{'':<20}{regions}{'mean':>8}  {'95 % interval':<16}{'HD95 mm':>8}{'steps':>8}"
        f"{'minutes':>8}{'patients':>9}"
    ]
    for row in rows:
        dice = "".join(_cell(row[f"dice_{name}"], 3) for name in (*spec.REGIONS, "mean"))
        notes = [] if row["complete"] else [f"only {row['trainings']} trainings"]
        notes += ["took more than its minutes"] if row["late"] else []
        lines.append(
            f"{row['contestant']:<20}{dice}  {_interval(row['dice_interval']):<16}"
            f"{_cell(row['hd95_mean'], 1)}{row['steps']:8.0f}{row['minutes']:8.2f}"
            f"{row['patients']:9d}  {', '.join(notes)}".rstrip()
        )
    first = _first_of_ours(rows)
    for row in rows:
        if first and row is not first:
            mean, interval = difference(results, first["contestant"], row["contestant"])
            lines.append(
                f"mean Dice, {first['contestant']} minus {row['contestant']}: "
                f"{_cell(mean, 3, '+').strip()} {_interval(interval, '+')}"
            )
    return "\n".join(lines)


def to_json(rows) -> str:
    """Formats the JSON line; the ratio is None while a training of either side is missing."""
    first = _first_of_ours(rows)
    peers = {row["contestant"]: row["dice_mean"] for row in rows if not _is_ours(row)}
    finished = [row for row in rows if row["complete"]]
    strongest = max((row["dice_mean"] or 0 for row in finished if not _is_ours(row)), default=0)
    ratio = first["dice_mean"] / strongest if first in finished and strongest else None
    return json.dumps(
        {
            "name": "quality",
            "unit": "mean Dice",
            "ours": first and first["dice_mean"],
            "peers": peers,
            "ratio": ratio,
            "rows": rows,
        }
    )


def to_csv(results) -> str:
    """Formats one line for each case, contestant and seed."""
    stream = io.StringIO()
    columns = ("contestant", "seed", "fold", "case", "patient", *FIGURES, *MEANS)
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for result in results:
        writer.writerows(case_rows(result))
    return stream.getvalue()


def to_figure(rows, results) -> bytes:
    """Draws the mean Dice of every case as a point, and of every contestant as a line; PNG."""
    figure = new_figure(1.5 + 1.3 * len(rows), 3.6, layout="constrained")
    axes = figure.subplots()
    for position, row in enumerate(rows):
        own = [result for result in results if result["contestant"] == row["contestant"]]
        dice = [case["dice_mean"] for result in own for case in case_rows(result)]
        spread = np.linspace(-0.15, 0.15, len(dice)) if len(dice) > 1 else [0.0]
        colour = "#1f5fa8" if _is_ours(row) else "#8a8a8a"
        axes.scatter(position + np.asarray(spread), dice, 14, colour, alpha=0.7, linewidths=0)
        axes.hlines(row["dice_mean"], position - 0.3, position + 0.3, colour, linewidth=2)
        axes.text(position + 0.32, row["dice_mean"], f"{row['dice_mean']:.3f}", va="center", size=8)
    axes.set_xticks(range(len(rows)), [row["contestant"] for row in rows], size=8)
    axes.set_xlim(-0.5, len(rows) - 0.2)
    axes.set_ylim(0, 1)
    axes.set_ylabel("Dice, mean of WT, TC and ET")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return to_png(figure, 150)


def _mean(values):
    """Mean of the values that are neither NaN nor None; None without any."""
    values = [value for value in values if value is not None and not np.isnan(value)]
    return float(np.mean(values)) if values else None


def _cell(value, decimals, sign=""):
    return f"{'–':>8}" if value is None else f"{value:{sign}8.{decimals}f}"


def _interval(interval, sign=""):
    return "" if interval is None else f"[{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"


def _is_ours(row):
    return row["contestant"].partition(":")[0] == OURS


def _first_of_ours(rows):
    return next((row for row in rows if _is_ours(row)), None)
