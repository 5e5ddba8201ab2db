"""Charts of an evaluation: distributions, agreement of volumes, paired Dice."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from brats_tfrecord import metrics, spec
from brats_tfrecord.evaluation.case_results import CaseResult
from brats_tfrecord.evaluation.volume_agreement import Agreement, agreement
from brats_tfrecord.report.figures import new_figure

DPI = 150
MIN_CASES_FOR_BOX = 5
"""With fewer cases the points alone are more informative than quartiles."""

_WIDTH = 9.0
_GRID = {"color": "#dddddd", "linewidth": 0.6}
_PENALTY_MM = 373.0
"""Larger distances are the rule sets' penalties for one empty mask (373.13 or 374 mm)."""


def distribution_figure(rows: Sequence[CaseResult], metric_names: Sequence[str]) -> Figure | None:
    """Draws Dice and HD95 of every region, one point per case, with boxes from 5 cases on.

    Args:
        rows: results; those without metrics are ignored.
        metric_names: metrics of the rule set; lesion-wise Dice and HD95 get a second row of axes.

    Returns:
        The figure, or None if no row has metrics.
    """
    rows = [row for row in rows if row.metrics is not None]
    if not rows:
        return None
    pairs = [
        pair
        for pair in (("dice", "hd95"), ("lesion_dice", "lesion_hd95"))
        if set(pair) <= set(metric_names)
    ]
    figure = new_figure(_WIDTH, 3.1 * len(pairs), layout="constrained")
    for pair, axes_row in zip(pairs, figure.subplots(len(pairs), 2, squeeze=False)):
        for axes, metric in zip(axes_row, pair):
            _distribution(axes, rows, metric)
    return figure


def volume_figure(rows: Sequence[CaseResult]) -> Figure | None:
    """Draws the Bland-Altman plot (1986) of every region's volume, one point per case.

    Cases of one patient are joined by a line. The bias is drawn from two patients on, the limits
    of agreement and their 95 % confidence intervals (bands) from
    `volume_agreement.MIN_PATIENTS_FOR_LIMITS`.

    Args:
        rows: results that have both volumes.

    Returns:
        The figure, or None without rows.
    """
    if not rows:
        return None
    figure = new_figure(_WIDTH, 3.0, layout="constrained")
    for axes, region in zip(figure.subplots(1, 3), spec.REGIONS):
        volumes = agreement(rows, region)
        axes.axhline(0, color="#777777", linewidth=0.8)
        _draw_limits(axes, volumes)
        _join_patients(axes, volumes)
        axes.scatter(volumes.means, volumes.differences, zorder=3, **_marker(region))
        axes.set_title(f"{region}, {spec.REGION_TITLES[region]}", fontsize=10)
        axes.set_xlabel("mean of truth and prediction (mL)", fontsize=9)
        ends = (*(volumes.low_interval or ()), *(volumes.high_interval or ()))
        y_limit = 1.15 * max(1.0, *np.abs(volumes.differences), *map(abs, ends))
        axes.set(xlim=(0, 1.08 * max(1.0, *volumes.means)), ylim=(-y_limit, y_limit))
        _style(axes)
    figure.axes[0].set_ylabel("prediction − truth (mL)", fontsize=9)
    return figure


def _draw_limits(axes: Axes, volumes: Agreement) -> None:
    """Draws the bias as a solid line, and the dashed limits in the bands of their intervals."""
    if volumes.bias is not None:
        axes.axhline(volumes.bias, color="black", linewidth=1.4)
    for limit, interval in (
        (volumes.low, volumes.low_interval),
        (volumes.high, volumes.high_interval),
    ):
        if limit is not None and interval is not None:
            axes.axhspan(*interval, color="#5b7a99", alpha=0.18, linewidth=0)
            axes.axhline(limit, color="black", linewidth=1.1, linestyle=(0, (5, 3)))


def _join_patients(axes: Axes, volumes: Agreement) -> None:
    """Joins the points of each patient with several cases, in ascending order of the means."""
    of_patient: dict[str, list[tuple[float, float]]] = {}
    for patient, *point in zip(volumes.patients, volumes.means, volumes.differences):
        of_patient.setdefault(patient, []).append((point[0], point[1]))
    for joined in of_patient.values():
        if len(joined) > 1:
            axes.plot(*zip(*sorted(joined)), color="#8a8a8a", linewidth=0.9, zorder=2)


def pairs_figure(pairs: Mapping[str, Sequence[tuple[str, float, float]]]) -> Figure | None:
    """Draws the Dice of each case with both models; cases are ordered by the other model's Dice.

    Args:
        pairs: region -> list of (case id, Dice here, Dice there), as in `compare.Comparison`.

    Returns:
        The figure, or None without pairs.
    """
    if not any(pairs.values()):
        return None
    figure = new_figure(_WIDTH, 3.1, layout="constrained")
    for axes, region in zip(figure.subplots(1, 3, sharey=True), spec.REGIONS):
        ordered = sorted(pairs.get(region, ()), key=lambda pair: (pair[2], pair[1]))
        here, there = (np.array([pair[side] for pair in ordered], float) for side in (1, 2))
        positions = np.arange(1, len(ordered) + 1)
        axes.vlines(positions, there, here, color="#8a8a8a", linewidth=1.2, zorder=1)
        axes.scatter(
            positions,
            there,
            s=24,
            facecolor="white",
            edgecolor="black",
            linewidth=1,
            zorder=2,
            label="the other",
        )
        axes.scatter(positions, here, zorder=3, label="this evaluation", **_marker(region))
        axes.set_title(f"{region}, {spec.REGION_TITLES[region]}", fontsize=10)
        axes.set_xlabel("cases, by the other's Dice", fontsize=9)
        axes.set(ylim=(-0.03, 1.03), xlim=(0.3, max(len(ordered), 1) + 0.7))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        _style(axes)
        axes.legend(fontsize=8, loc="lower right", framealpha=0.9, edgecolor="#cccccc")
    figure.axes[0].set_ylabel("Dice", fontsize=9)
    return figure


def _marker(region):
    return {"s": 26, "color": spec.REGION_COLOURS[region], "edgecolor": "black", "linewidth": 0.6}


def _style(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", **_GRID)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def _distribution(axes, rows, metric):
    highest = 0.0
    for position, region in enumerate(spec.REGIONS):
        values = [row.metrics[region][metric] for row in rows]
        values = [value for value in values if value is not None]
        _strip(axes, position, values, region)
        highest = max(highest, *values, 0.0)
    axes.set_xticks(range(len(spec.REGIONS)), list(spec.REGIONS))
    axes.set_xlim(-0.5, len(spec.REGIONS) - 0.5)
    _style(axes)
    better = "higher" if "dice" in metric else "lower"
    axes.set_title(f"{metrics.METRIC_TITLES[metric]}: {better} is better", fontsize=10)
    if "dice" in metric:
        axes.set_ylim(-0.03, 1.03)
    else:
        _millimetre_axis(axes, highest)


def _strip(axes, position, values, region):
    """Draws the points of one region, spread sideways by a fixed rule, so without randomness."""
    if len(values) >= MIN_CASES_FOR_BOX:
        axes.boxplot(
            values,
            positions=[position],
            widths=0.55,
            showfliers=False,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": spec.REGION_COLOURS[region], "alpha": 0.3},
            medianprops={"color": "black", "linewidth": 1.4},
        )
    spread = (np.arange(len(values)) * 0.618034 % 1 - 0.5) * 0.36 if len(values) > 1 else 0.0
    axes.scatter(np.full(len(values), position) + spread, values, zorder=3, **_marker(region))


def _millimetre_axis(axes: Axes, highest: float) -> None:
    """Scales the y axis of distances, 0 to 374 mm: linear up to 1 mm and logarithmic above."""
    axes.set_yscale("symlog", linthresh=1, linscale=0.5)
    ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100, 200) if tick <= max(highest, 5) * 1.5]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-0.1, max(highest, 5) * 1.8)
    if highest >= _PENALTY_MM:
        axes.axhline(highest, color="#777777", linestyle="--", linewidth=0.8)
        axes.text(
            0.01,
            highest,
            " one mask empty",
            fontsize=8,
            color="#444444",
            va="bottom",
            transform=axes.get_yaxis_transform(),
        )
