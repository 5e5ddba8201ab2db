"""Charts of an evaluation as PNG bytes: distributions, agreement of volumes, paired Dice."""

import numpy as np
from matplotlib.ticker import MaxNLocator, NullLocator

from brats_tfrecord import metrics, spec
from brats_tfrecord.evaluation.volumes import agreement
from brats_tfrecord.report.figure_png import new_figure, to_png

BOX_FROM = 5
"""Below so many cases quartiles say less than the points themselves."""

_DPI = 150
_WIDTH = 9.0
_GRID = {"color": "#dddddd", "linewidth": 0.6}
_PENALTY_MM = 373.0
"""Above are what rule sets write down where one mask alone is empty (373.13 or 374 mm)."""


def distribution_figure(rows, metric_names):
    """Draws Dice and HD95 of every region, one point a case, with quartile boxes from 5 cases on.

    Args:
        rows: `case_results.CaseResult`; those without metrics are passed over.
        metric_names: the rule set's metrics; lesion-wise Dice and HD95 get a second row of axes.

    Returns:
        PNG bytes, or None if no row has metrics.
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
    return to_png(figure, _DPI)


def volume_figure(rows):
    """Draws Bland and Altman's (1986) plot of every region's volume, one point a case.

    Args:
        rows: `case_results.CaseResult`s that have both volumes.

    Returns:
        PNG bytes, or None if there is no row. The bias is drawn from two cases on, the limits
        of agreement from `volumes.LIMITS_FROM`.
    """
    if not rows:
        return None
    figure = new_figure(_WIDTH, 3.0, layout="constrained")
    for axes, region in zip(figure.subplots(1, 3), spec.REGIONS):
        found = agreement(rows, region)
        axes.axhline(0, color="#777777", linewidth=0.8)
        if found.bias is not None:
            axes.axhline(found.bias, color="black", linewidth=1.4)
        for limit in (found.low, found.high):
            if limit is not None:
                axes.axhline(limit, color="black", linewidth=1.1, linestyle=(0, (5, 3)))
        axes.scatter(found.means, found.differences, **_points(region))
        axes.set_title(f"{region}, {spec.REGION_TITLES[region]}", fontsize=10)
        axes.set_xlabel("mean of truth and prediction (mL)", fontsize=9)
        reach = 1.15 * max(
            1.0, *np.abs(found.differences), abs(found.low or 0), abs(found.high or 0)
        )
        axes.set(xlim=(0, 1.08 * max(1.0, *found.means)), ylim=(-reach, reach))
        _tidy(axes)
    figure.axes[0].set_ylabel("prediction − truth (mL)", fontsize=9)
    return to_png(figure, _DPI)


def pairs_figure(pairs):
    """Draws the Dice of each case under both models, cases in the order of the other's Dice.

    Args:
        pairs: region -> list of (case id, Dice here, Dice there), as in `compare.Comparison`.

    Returns:
        PNG bytes, or None if there is no pair.
    """
    if not any(pairs.values()):
        return None
    figure = new_figure(_WIDTH, 3.1, layout="constrained")
    for axes, region in zip(figure.subplots(1, 3, sharey=True), spec.REGIONS):
        ordered = sorted(pairs.get(region, ()), key=lambda pair: (pair[2], pair[1]))
        here, there = (np.array([pair[side] for pair in ordered], float) for side in (1, 2))
        place = np.arange(1, len(ordered) + 1)
        axes.vlines(place, there, here, color="#8a8a8a", linewidth=1.2, zorder=1)
        axes.scatter(
            place,
            there,
            s=24,
            facecolor="white",
            edgecolor="black",
            linewidth=1,
            zorder=2,
            label="the other",
        )
        axes.scatter(place, here, zorder=3, label="this evaluation", **_points(region))
        axes.set_title(f"{region}, {spec.REGION_TITLES[region]}", fontsize=10)
        axes.set_xlabel("cases, by the other's Dice", fontsize=9)
        axes.set(ylim=(-0.03, 1.03), xlim=(0.3, max(len(ordered), 1) + 0.7))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        _tidy(axes)
        axes.legend(fontsize=8, loc="lower right", framealpha=0.9, edgecolor="#cccccc")
    figure.axes[0].set_ylabel("Dice", fontsize=9)
    return to_png(figure, _DPI)


def _points(region):
    return {"s": 26, "color": spec.REGION_COLOURS[region], "edgecolor": "black", "linewidth": 0.6}


def _tidy(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", **_GRID)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def _distribution(axes, rows, metric):
    highest = 0.0
    for place, region in enumerate(spec.REGIONS):
        values = [row.metrics[region][metric] for row in rows]
        values = [value for value in values if value is not None]
        _strip(axes, place, values, region)
        highest = max(highest, *values, 0.0)
    axes.set_xticks(range(len(spec.REGIONS)), list(spec.REGIONS))
    axes.set_xlim(-0.5, len(spec.REGIONS) - 0.5)
    _tidy(axes)
    better = "higher" if "dice" in metric else "lower"
    axes.set_title(f"{metrics.METRIC_TITLES[metric]}: {better} is better", fontsize=10)
    if "dice" in metric:
        axes.set_ylim(-0.03, 1.03)
    else:
        _millimetre_axis(axes, highest)


def _strip(axes, place, values, region):
    """Points of one region, spread sideways by rank so that the picture is always the same."""
    if len(values) >= BOX_FROM:
        axes.boxplot(
            values,
            positions=[place],
            widths=0.55,
            showfliers=False,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": spec.REGION_COLOURS[region], "alpha": 0.3},
            medianprops={"color": "black", "linewidth": 1.4},
        )
    spread = (np.arange(len(values)) * 0.618034 % 1 - 0.5) * 0.36 if len(values) > 1 else 0.0
    axes.scatter(np.full(len(values), place) + spread, values, zorder=3, **_points(region))


def _millimetre_axis(axes, highest):
    """Distances run from 0 to 374 mm: linear to 1 mm and logarithmic above, in plain numbers."""
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
