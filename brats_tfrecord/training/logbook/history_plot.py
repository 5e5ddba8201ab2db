"""The course of a run as a picture. Imports no TensorFlow."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from brats_tfrecord import spec


def plot(rows, best_epoch=None):
    """Draws what a run's rows tell against the epoch: above the learning, below what drives it.

    Args:
        rows: dicts of `history.COLUMNS`, None where empty; a panel without any value says so.
        best_epoch: is marked in the panel of the Dice, which chose it; None marks none.

    Returns:
        `Figure` of six axes: loss, Dice by region, voxel accuracy; learning rate, volumes/s, share
        of time spent waiting for input.
    """
    # Placed by hand: a layout engine takes longer than all the rest, after every epoch.
    figure = Figure(figsize=(12.5, 6.6))
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
    for small in (loss, rate):
        small.ticklabel_format(axis="y", scilimits=(-2, 4))
    wait.set_ylim(-3, 103)
    for one in axes.flat:
        one.set_xlabel("epoch")
        one.xaxis.set_major_locator(MaxNLocator(integer=True))
        # One epoch would be given a scale of fractions.
        last = max((row["epoch"] for row in rows), default=1)
        one.set_xlim(0.5, max(last, 2) + 0.5)
        one.grid(alpha=0.3)
    return figure


def _panel(axes, rows, title, names, bottom=None, scale=1):
    """Lines of the columns `names` (column -> label or None)."""
    axes.set_title(title, fontsize=11)
    for name, label in names.items():
        _line(axes, rows, name, scale, label=label)
    if not axes.lines:
        _say(axes, "not measured")
        return
    if any(names.values()):
        axes.legend(fontsize=9)
    if bottom is not None:
        top = max(max(line.get_ydata()) for line in axes.lines)
        axes.set_ylim(bottom, top * 1.15 or 1)


def _dice(axes, rows, best_epoch):
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
        _say(axes, "no epoch was validated yet")
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


def _line(axes, rows, name, scale=1, **style):
    points = [(row["epoch"], row[name] * scale) for row in rows if row[name] is not None]
    if points:
        marker = "." if len(points) <= 60 else None  # more would run together
        axes.plot(*zip(*points), **{"marker": marker, **style})


def _say(axes, text):
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#666666")
