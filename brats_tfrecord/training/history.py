"""The course of a run: one row an epoch, as CSV, TensorBoard scalars and a picture."""

import csv
import io
from pathlib import Path

import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from brats_tfrecord import files, spec
from brats_tfrecord.errors import InputError

DICE_COLUMNS = tuple(f"val_dice_{region}" for region in spec.REGIONS)
COLUMNS = (
    "epoch", "loss", "accuracy", "val_loss", "val_accuracy", *DICE_COLUMNS, "val_dice_mean",
    "volumes_per_second", "seconds",
)
"""Columns of history.csv; the `val_` ones are empty in epochs that were not validated."""


class History:
    """Rows of a run, kept in `model_dir`; a row is dict of `COLUMNS`, None where empty."""

    def __init__(self, model_dir, finished_epochs=0):
        """Takes up the first `finished_epochs` rows of an earlier session.

        Rows beyond them are of an epoch whose checkpoint was never finished, and go.

        Raises:
            InputError: history.csv does not tell of every finished epoch.
        """
        self._folder = Path(model_dir)
        self._path = self._folder / "history.csv"
        self.rows = self._read()[:finished_epochs] if finished_epochs else []
        if [row["epoch"] for row in self.rows] != list(range(1, finished_epochs + 1)):
            raise InputError(f"{self._path}: lacks rows of the {finished_epochs} epochs that the "
                             "checkpoint has behind it; put it back, or choose a new --model_dir")
        self._writer = None

    @property
    def best_epoch(self):
        """The first epoch of the highest mean Dice; None if no epoch was validated."""
        scored = [row for row in self.rows if row["val_dice_mean"] is not None]
        return max(scored, key=lambda row: row["val_dice_mean"])["epoch"] if scored else None

    def add(self, row):
        """Adds the row of an epoch to CSV and TensorBoard."""
        self.rows.append({name: row.get(name) for name in COLUMNS})
        files.write_text(self._path, _to_csv(self.rows))
        self._write_scalars(self.rows[-1])

    def draw(self):
        """Draws `history.png` anew."""
        with files.replacing(self._folder / "history.png") as temporary:
            plot(self.rows).savefig(temporary, format="png", dpi=110)

    def _read(self):
        if not self._path.is_file():
            return []
        try:
            with open(self._path, newline="") as stream:
                return [_from_text(row) for row in csv.DictReader(stream)]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self._path}: is damaged; put it back, or choose a new "
                             "--model_dir") from error

    def _write_scalars(self, row):
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._folder / "tensorboard"))
        with self._writer.as_default(step=row["epoch"]):
            for name, value in row.items():
                if name != "epoch" and value is not None:
                    tf.summary.scalar(name, value)
        self._writer.flush()


def plot(rows):
    """Draws loss, accuracy and Dice by region against the epoch; returns a `Figure`."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    loss, accuracy, dice = figure.subplots(1, 3)
    for axes, title, names in (
        (loss, "loss", {"loss": "training", "val_loss": "validation"}),
        (accuracy, "voxel accuracy", {"accuracy": "training", "val_accuracy": "validation"}),
    ):
        for name, label in names.items():
            _line(axes, rows, name, label=label)
        axes.set_title(title)
    for region, name in zip(spec.REGIONS, DICE_COLUMNS):
        _line(dice, rows, name, label=region, color=spec.REGION_COLOURS[region])
    dice.set_title("validation Dice, mean over cases")
    dice.set_ylim(0, 1)
    for axes in (loss, accuracy, dice):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    return figure


def _line(axes, rows, name, **style):
    points = [(row["epoch"], row[name]) for row in rows if row[name] is not None]
    if points:
        axes.plot(*zip(*points), marker=".", **style)


def _to_csv(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _from_text(row):
    values = {name: float(row[name]) if row[name] else None for name in COLUMNS}
    return {**values, "epoch": int(row["epoch"])}
