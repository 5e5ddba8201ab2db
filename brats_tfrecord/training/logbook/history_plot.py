"""The figure of a run's history. Imports no TensorFlow."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from brats_tfrecord import spec


def plot(rows: Sequence[dict], best_epoch: int | None = None, title: str = "") -> Figure:
    """Plots the columns of a run's history against the epoch.

    Args:
        rows: dicts of `history.COLUMNS`; empty columns are None. A panel without values says so.
        best_epoch: epoch to mark in the Dice panel, or None.
        title: title of the figure.

    Returns:
        Figure with six axes: loss, Dice by region, voxel accuracy; learning rate, volumes/s, share
        of time spent waiting for input.
    """
    # Fixed margins: a layout engine would take longer than drawing, after every epoch.
    figure = Figure(figsize=(12.5, 6.6))
    if title:
        figure.suptitle(title, x=0.06, y=0.99, ha="left", fontsize=9)
    axes = figure.subplots(
        2,
        3,
        gridspec_kw={
            "left": 0.06,
            "right": 0.99,
            "bottom": 0.075,
            "top": 0.95,
            "wspace": 0.25,
            "hspace": 0.33,
        },
    )
    (loss, dice, accuracy), (rate, speed, wait) = axes
    _panel(loss, rows, "loss", {"loss": "training", "val_loss": "validation"})
    _dice(dice, rows, best_epoch)
    _panel(
        accuracy,
        rows,
        "share of voxels of the right class",
        {"accuracy": "training", "val_accuracy": "validation"},
    )
    _panel(rate, rows, "learning rate", {"learning_rate": None}, bottom=0)
    _panel(speed, rows, "training speed, volumes/s", {"volumes_per_second": None}, bottom=0)
    _panel(wait, rows, "time spent waiting for input, %", {"input_wait": None}, scale=100)
    for panel in (loss, rate):
        panel.ticklabel_format(axis="y", scilimits=(-2, 4))
    wait.set_ylim(-3, 103)
    last_epoch = max((row["epoch"] for row in rows), default=1)
    for panel in axes.flat:
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        # At least two epochs wide: the axis of a single epoch would show fractions.
        panel.set_xlim(0.5, max(last_epoch, 2) + 0.5)
        panel.grid(alpha=0.3)
    return figure


def _panel(
    axes: Axes,
    rows: Sequence[dict],
    title: str,
    names: dict[str, str | None],
    bottom: float | None = None,
    scale: float = 1,
) -> None:
    """Plots the columns `names` (column -> label or None), multiplied by `scale`."""
    axes.set_title(title, fontsize=11)
    for name, label in names.items():
        _line(axes, rows, name, scale, label=label)
    if not axes.lines:
        _write_centred(axes, "not measured")
        return
    if any(names.values()):
        axes.legend(fontsize=9)
    if bottom is not None:
        top = max(float(np.max(line.get_ydata())) for line in axes.lines)
        axes.set_ylim(bottom, top * 1.15 or 1)


def _dice(axes: Axes, rows: Sequence[dict], best_epoch: int | None) -> None:
    axes.set_title("validation Dice, mean over cases", fontsize=11)
    for region in spec.REGIONS:
        _line(
            axes,
            rows,
            f"val_dice_{region}",
            label=f"{region}, {spec.REGION_TITLES[region]}",
            color=spec.REGION_COLOURS[region],
        )
    _line(
        axes,
        rows,
        "val_dice_mean",
        label="mean",
        color="#555555",
        linewidth=1,
        linestyle="--",
        markersize=3,
        zorder=1.9,
    )
    axes.set_ylim(0, 1)
    if not axes.lines:
        axes.set_yticks([0, 0.5, 1])
        _write_centred(axes, "no epoch was validated yet")
        return
    if best_epoch:
        best = next(row["val_dice_mean"] for row in rows if row["epoch"] == best_epoch)
        axes.axvline(
            best_epoch,
            color="#777777",
            linewidth=1,
            linestyle=":",
            label=f"best: epoch {best_epoch}, {best:.3f}",
        )
    axes.legend(fontsize=9)


def _line(axes: Axes, rows: Sequence[dict], name: str, scale: float = 1, **style: Any) -> None:
    points = [(row["epoch"], row[name] * scale) for row in rows if row[name] is not None]
    if points:
        marker = "." if len(points) <= 60 else None  # more markers would overlap
        axes.plot(*zip(*points), **{"marker": marker, **style})


def _write_centred(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#666666")
