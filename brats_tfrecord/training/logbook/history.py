"""The course of a run: one row an epoch, as CSV, TensorBoard scalars and a picture."""

import csv
import functools
import io
from pathlib import Path

import numpy as np
import tensorflow as tf

from brats_tfrecord import files, spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.training.logbook import history_plot
from brats_tfrecord.training.logbook.event_file import EventFile

DICE_COLUMNS = tuple(f"val_dice_{region}" for region in spec.REGIONS)
COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    *DICE_COLUMNS,
    "val_dice_mean",
    "learning_rate",
    "volumes_per_second",
    "input_wait",
    "seconds",
)
"""Columns of history.csv; the `val_` ones are empty in epochs that were not validated.

`volumes_per_second` and `input_wait`, the share (0 to 1) of the time spent on waiting for input,
are of the epoch's training alone, which took `seconds`; `learning_rate` is that of its last step.
"""


class History:
    """Rows of a run, kept in `model_dir`; a row is dict of `COLUMNS`, None where empty."""

    def __init__(self, model_dir, finished_epochs=0):
        """Takes up the first `finished_epochs` rows of an earlier session.

        Rows beyond them are of an epoch whose checkpoint was never finished, and go.

        Raises:
            InputError: history.csv does not tell of every finished epoch, or of epochs of which no
                state is left.
        """
        self._folder = Path(model_dir)
        self._path = self._folder / "history.csv"
        there = self._read()
        # One row may be of an epoch whose state was not saved any more.
        if not finished_epochs and len(there) > 1:
            raise InputError(
                f"{self._path}: tells of {len(there)} epochs, but no checkpoint of "
                "them is left; put the checkpoints back, or choose a new --model_dir"
            )
        self.rows = there[:finished_epochs]
        if [row["epoch"] for row in self.rows] != list(range(1, finished_epochs + 1)):
            raise InputError(
                f"{self._path}: lacks rows of the {finished_epochs} epochs that the "
                "checkpoint has behind it; put it back, or choose a new --model_dir"
            )
        self._first_epoch = finished_epochs + 1

    @property
    def best_epoch(self):
        """The first epoch of the highest mean Dice; None if no epoch was validated."""
        scored = [row for row in self.rows if row["val_dice_mean"] is not None]
        return max(scored, key=lambda row: row["val_dice_mean"])["epoch"] if scored else None

    def add(self, row):
        """Adds the row of an epoch to CSV and TensorBoard."""
        self.rows.append({name: row.get(name) for name in COLUMNS})
        files.write_text(self._path, _to_csv(self.rows))
        self._events.scalars(
            row["epoch"],
            {
                _tag(name): value
                for name, value in self.rows[-1].items()
                if name != "epoch" and value is not None
            },
        )

    def add_images(self, epoch, images):
        """Adds pictures of an epoch to TensorBoard; `overlays.png` shows the latest, all in one.

        Args:
            epoch: counted from 1.
            images: uint8 RGB [N, H, W, 3], of `overlays.Overlays`; N = 0 adds nothing.
        """
        if not len(images):
            return
        self._events.images(epoch, "overlays", images)
        files.write_bytes(
            self._folder / "overlays.png", tf.io.encode_png(np.concatenate(images)).numpy()
        )

    def draw(self):
        """Draws `history.png` anew."""
        with files.replacing(self._folder / "history.png") as temporary:
            history_plot.plot(self.rows, self.best_epoch).savefig(temporary, format="png", dpi=110)

    def _read(self):
        if not self._path.is_file():
            return []
        try:
            with open(self._path, newline="") as stream:
                return [_from_text(row) for row in csv.DictReader(stream)]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self._path}: is damaged; put it back, or choose a new --model_dir"
            ) from error

    @functools.cached_property
    def _events(self):
        """Opened at the first epoch: a run that is finished already gets no more files."""
        return EventFile(self._folder / "tensorboard", self._first_epoch)


def _tag(column):
    """Where TensorBoard shows a column: charts are grouped by what stands before the slash."""
    if column.startswith("val_"):
        return "validation/" + column.removeprefix("val_")
    speed = column in ("volumes_per_second", "input_wait", "seconds")
    return ("speed/" if speed else "train/") + column


def _to_csv(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _from_text(row):
    values = {name: float(row[name]) if row[name] else None for name in COLUMNS}
    return {**values, "epoch": int(row["epoch"])}
