"""The history of a run: one row per epoch, as CSV, TensorBoard scalars and a figure."""

import contextlib
import csv
import functools
import io
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from brats_tfrecord import files, spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.training.logbook import history_plot
from brats_tfrecord.wording import plural

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
"""Columns of history.csv.

The `val_` columns are empty in epochs without validation. `seconds` is the time of the training
steps, `volumes_per_second` their speed, and `input_wait` the fraction of that time spent waiting
for input. `learning_rate` is that of the last step.
"""


class History:
    """The rows of a run, kept in its folder.

    Attributes:
        rows: one dict of `COLUMNS` per epoch; empty columns are None.
        notices: lines about rows that were lost.
    """

    def __init__(
        self,
        model_dir: Path | str,
        finished_epochs: int = 0,
        other_rows: Iterable[Mapping] = (),
        title: str = "",
    ) -> None:
        """Reads the rows that earlier sessions have written.

        Later rows than `finished_epochs` belong to an epoch that was not saved; they are dropped.
        Rows that history.csv lacks, or that cannot be read, are empty but for their epoch.

        Args:
            model_dir: folder of the run.
            finished_epochs: epochs that the checkpoint has behind it.
            other_rows: rows that are kept elsewhere, used where history.csv lacks them.
            title: title of history.png.

        Raises:
            InputError: history.csv has rows of several epochs without a checkpoint.
        """
        self._folder, self._title = Path(model_dir), title
        self._path = self._folder / "history.csv"
        self.notices: list[str] = []
        rows = {row["epoch"]: row for row in self._read()}
        # A single row is possible: the session was killed after the row, before the checkpoint.
        if not finished_epochs and len(rows) > 1:
            raise InputError(
                f"{self._path}: has rows of {len(rows)} epochs, but their checkpoints are "
                "missing; put the checkpoints back, or choose a new --model_dir"
            )
        epochs = range(1, finished_epochs + 1)
        missing = [epoch for epoch in epochs if epoch not in rows]
        spare = {row["epoch"]: dict(row) for row in other_rows if row["epoch"] in missing}
        empty = dict.fromkeys(COLUMNS)
        self.rows = [
            rows.get(epoch) or {**empty, **spare.get(epoch, {}), "epoch": epoch} for epoch in epochs
        ]
        if missing:
            self.notices.append(self._notice(missing, sorted(spare)))
        self._first_epoch = finished_epochs + 1

    def _notice(self, missing, restored):
        """One line about the rows that history.csv lacks."""
        parts = []
        if restored:
            epochs = " and ".join(map(str, restored))
            parts.append(f"the row of epoch {epochs} is restored from run_card.json")
        if lost := len(missing) - len(restored):
            parts.append(
                f"the rows of {plural(lost, 'epoch')} are lost and stay empty; the best epoch is "
                "chosen from the others"
            )
        return f"{self._path}: is missing or damaged; {'; '.join(parts)}"

    @property
    def best_epoch(self) -> int | None:
        """The first epoch with the highest mean Dice; None if no epoch was validated."""
        scored = [row for row in self.rows if row["val_dice_mean"] is not None]
        return max(scored, key=lambda row: row["val_dice_mean"])["epoch"] if scored else None

    def add(self, row: Mapping) -> None:
        """Adds the row of an epoch to history.csv and to TensorBoard."""
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

    def add_images(self, epoch: int, images: np.ndarray) -> None:
        """Adds pictures of an epoch to TensorBoard, and writes them one below the other to
        overlays.png.

        Args:
            epoch: counted from 1.
            images: uint8 RGB [N, H, W, 3] from `overlays.Overlays`; nothing is written if N is 0.
        """
        if not len(images):
            return
        self._events.images(epoch, "overlays", images)
        files.write_bytes(
            self._folder / "overlays.png", tf.io.encode_png(np.concatenate(images)).numpy()
        )

    def draw(self) -> None:
        """Writes history.png."""
        with files.replacing(self._folder / "history.png") as temporary:
            figure = history_plot.plot(self.rows, self.best_epoch, self._title)
            figure.savefig(temporary, format="png", dpi=110)

    def _read(self) -> list[dict]:
        if not self._path.is_file():
            return []
        rows = []
        lines = self._path.read_text("utf-8", errors="replace").replace("\0", "").splitlines()
        for row in csv.DictReader(lines):
            with contextlib.suppress(KeyError, TypeError, ValueError):  # a damaged row is lost
                rows.append(_from_text(row))
        return rows

    @functools.cached_property
    def _events(self) -> "EventFile":
        """The event file; opened when first needed, so that a finished run gets no more files."""
        return EventFile(self._folder / "tensorboard", self._first_epoch)


def _tag(column: str) -> str:
    """The tag of a column in TensorBoard, which groups charts by the part before the slash."""
    if column.startswith("val_"):
        return "validation/" + column.removeprefix("val_")
    speed = column in ("volumes_per_second", "input_wait", "seconds")
    return ("speed/" if speed else "train/") + column


def _to_csv(rows: Iterable[Mapping]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _from_text(row: Mapping[str, str]) -> dict:
    if None in row.values():
        raise ValueError("the row is cut off")
    values: dict = {name: float(row[name]) if row[name] else None for name in COLUMNS}
    return {**values, "epoch": int(row["epoch"])}


Event, Summary, SessionLog = tf.compat.v1.Event, tf.compat.v1.Summary, tf.compat.v1.SessionLog


class EventFile:
    """Scalars and pictures of one session of a run.

    The file begins with a restart event, at which TensorBoard drops what it has read of that step
    and later ones: those came from a session that was killed before it saved their checkpoint.
    `tf.summary` of TensorFlow 2 cannot write this event. The first session writes it, too, because
    TensorBoard ignores the first restart event it reads.
    """

    def __init__(self, folder: Path | str, first_step: int) -> None:
        """Opens a new file in `folder` for steps from `first_step` on."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard requires "tfevents" in the name, and reads files in the order of their names.
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        self._writer = tf.io.TFRecordWriter(
            str(folder / f"events.out.tfevents.{seconds:010d}.{nanoseconds:09d}")
        )
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes numbers by tag; TensorBoard groups them by the part of a tag before its slash."""
        self._write(
            step=step,
            summary=Summary(
                value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            ),
        )

    def images(self, step: int, group: str, images: np.ndarray) -> None:
        """Writes uint8 RGB images [N, H, W, 3] with the tags group/1 to group/N."""
        _, height, width, _ = images.shape
        self._write(
            step=step,
            summary=Summary(
                value=[
                    Summary.Value(
                        tag=f"{group}/{number}",
                        image=Summary.Image(
                            height=height,
                            width=width,
                            colorspace=3,
                            encoded_image_string=tf.io.encode_png(image).numpy(),
                        ),
                    )
                    for number, image in enumerate(images, 1)
                ]
            ),
        )

    def _write(self, **content):
        event = Event(wall_time=time.time(), **content)
        self._writer.write(event.SerializeToString())
        self._writer.flush()
