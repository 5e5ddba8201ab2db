"""Writes the run card: options, versions, dataset, results and sessions of a run.

run_card.json     for programs
run_card.md       the same for people
"""

import dataclasses
import datetime
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import numpy as np
import tensorflow as tf

from brats_tfrecord import __version__, files
from brats_tfrecord.training.logbook.run_card_text import to_markdown
from brats_tfrecord.training.optimization import addons
from brats_tfrecord.training.trainer import Trainer

FILE_NAME = "run_card.json"
TEXT_NAME = "run_card.md"
RUNNING, KILLED = "running", "killed"


class RunCard:
    """The run card of a run, written in one of its sessions.

    Call `write` when the session begins, after every epoch, and when the session ends. If the
    last state of an earlier session is `RUNNING`, that session was killed: this one then lists it
    as `KILLED`, with the time and the epochs until its last call.
    """

    def __init__(self, trainer: Trainer, finished_epochs: int) -> None:
        """Begins a session; earlier sessions are read from the card that is in the folder.

        Args:
            trainer: the trainer of the run.
            finished_epochs: epochs that were finished before this session.
        """
        options = trainer.options
        self._folder = Path(options.model_dir)
        self._description = _description(trainer)
        self._began = now()
        self._epochs_before = finished_epochs
        self._earlier_sessions = _sessions(read(trainer))

    def write(self, state: str, rows: list[dict], best_epoch: int | None) -> None:
        """Writes both files.

        Args:
            state: `RUNNING`, or how the session ended, such as "finished".
            rows: rows of `History`, of all sessions.
            best_epoch: counted from 1; None if no epoch was validated.
        """
        last_seen = now()
        session = {
            "begun": self._began.isoformat(timespec="milliseconds"),
            "last_seen": last_seen.isoformat(timespec="milliseconds"),
            "seconds": (last_seen - self._began).total_seconds(),
            "epochs_before": self._epochs_before,
            "epochs_after": len(rows),
            "state": state,
        }
        sessions = [*self._earlier_sessions, session]
        card = {
            **self._description,
            "state": state,
            "result": {
                "finished_epochs": len(rows),
                "best_epoch": best_epoch,
                "best": _measured(rows, best_epoch),
                "last": _measured(rows, len(rows)),
            },
            "timings": _timings(rows, sessions),
            "sessions": sessions,
        }
        files.write_json(self._folder / FILE_NAME, card)
        files.write_text(self._folder / TEXT_NAME, to_markdown(card))


def read(trainer: Trainer) -> dict | None:
    """Reads the card of the run in the trainer's folder.

    Returns:
        Content of run_card.json; None if it is missing, damaged or of another run.
    """
    identity = trainer.options.identity()
    # auto and the precision that it means are the same run.
    identity.pop("precision")
    try:
        card = files.read_json(Path(trainer.options.model_dir) / FILE_NAME)
        is_same_run = (
            card["dataset"]["fingerprint"] == trainer.dataset.fingerprint
            and card["arithmetic"]["precision"] == trainer.precision
            and all(card["flags"].get(name, value) == value for name, value in identity.items())
        )
        return card if is_same_run else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a damaged card is no reason to refuse a run


def measured_rows(card: dict | None) -> list[dict]:
    """Returns the rows of the history that a card holds: of the best epoch, and of the last."""
    try:
        rows = [card["result"][name] for name in ("best", "last")] if card else []
        return [{**row, "epoch": int(row["epoch"])} for row in rows if row]
    except (KeyError, TypeError, ValueError):
        return []


def now() -> datetime.datetime:
    """The current time in UTC, in whole milliseconds."""
    time = datetime.datetime.now(datetime.timezone.utc)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def _description(trainer: Trainer) -> dict:
    """The part of the card that stays the same throughout a session."""
    options, dataset = trainer.options, trainer.dataset
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    flags = {name: getattr(options, name) for name in defaults}
    folds = {
        "training": list(trainer.train_folds),
        "validation": list(options.validation_folds),
        "test": list(options.test_folds),
    }
    return {
        "flags": flags,
        "not_default": [name for name, value in flags.items() if value != defaults[name]],
        "versions": _versions(options.optimizer),
        "arithmetic": {
            "precision": trainer.precision,
            "devices": list(trainer.strategy.extended.worker_devices),
        },
        "dataset": {
            "fingerprint": dataset.fingerprint,
            "label_scheme": dataset.label_scheme.name,
            "crop_shape": list(dataset.crop_shape),
            "folds": folds,
            "cases": {use: len(dataset.case_ids(chosen)) for use, chosen in folds.items()},
        },
        "network": {
            "name": options.network,
            "input": ", ".join(options.input_names),
            "stride": trainer.network.stride,
            "parameters": trainer.network.model.count_params(),
            "patch_shape": list(trainer.patch_shape),
            "piece": trainer.piece.to_json(),
        },
    }


def _versions(optimizer: str) -> dict[str, str]:
    """Versions of Python, of this package, and of the packages that determine the results."""
    keras = "tf-keras" if tf.keras.__name__.startswith("tf_keras") else "keras"
    packages = ["tensorflow", keras, "numpy"]
    if optimizer in addons.OPTIMIZERS:
        packages.append("tensorflow-addons")
    return {
        "brats-tfrecord": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def _sessions(card: dict | None) -> list[dict]:
    """The earlier sessions of a card; none if there is no card."""
    try:
        sessions = [dict(session) for session in card["sessions"]] if card else []
    except (KeyError, TypeError, ValueError):
        return []
    for session in sessions:
        if session.get("state") == RUNNING:
            session["state"] = KILLED
    return sessions


def _measured(rows: Iterable[dict], epoch: int | None) -> dict:
    """The row of `epoch` without its empty columns; {} if there is no such row."""
    for row in rows:
        if row["epoch"] == epoch:
            return {name: value for name, value in row.items() if value is not None}
    return {}


def _timings(rows: list[dict], sessions: list[dict]) -> dict:
    """Seconds and rates; None if nothing was measured.

    Sessions last until they were last seen alive; training is the time of the steps alone.
    """

    def column(name):
        return [row[name] for row in rows if row.get(name) is not None]

    def median(name):
        return float(np.median(column(name))) if column(name) else None

    timed = [row for row in rows if row.get("input_wait") is not None]
    waited = sum(row["input_wait"] * row["seconds"] for row in timed)
    return {
        "sessions_seconds": sum(session["seconds"] for session in sessions),
        "training_seconds": float(sum(column("seconds"))),
        "epoch_seconds_median": median("seconds"),
        "volumes_per_second_median": median("volumes_per_second"),
        "input_wait": waited / sum(row["seconds"] for row in timed) if timed else None,
    }
