"""The card of a run: what it was, ran on and came to, for those who read it next year.

    run_card.json     for programs
    run_card.md       the same for people

Imports no TensorFlow.
"""

import dataclasses
import datetime
import platform
from importlib import metadata
from pathlib import Path

import numpy as np

from brats_tfrecord import __version__, files
from brats_tfrecord.training.logbook import run_card_text

FILE_NAME = "run_card.json"
TEXT_NAME = "run_card.md"
RUNNING, KILLED = "running", "killed"
_OF_ADDONS = ("lamb", "ranger", "novograd")


def write(
    options,
    dataset,
    *,
    begun,
    resumed_after,
    state,
    rows,
    best_epoch,
    train_folds,
    network,
    patch_shape,
    precision,
    devices,
):
    """Writes the card anew, with this session and those before it.

    Call it when a session begins, after every epoch if you like, and when it ends, however: a
    session whose last word was "running" was killed, and the next one says so.

    Args:
        options: `TrainOptions`.
        dataset: `records.manifest.Manifest`.
        begun: from `now`, when this session began; names the session.
        resumed_after: epochs that were finished before it.
        state: `RUNNING`, or how it ended: "finished", "stopped: time limit", "diverged: …".
        rows: of `History`, all sessions' epochs.
        best_epoch: counted from 1; None if none was validated.
        train_folds: folds trained on.
        network: dict of `name`, `parameters` (their number), `stride` and what else tells of it.
        patch_shape: (X, Y, Z) in voxels.
        precision: dtype policy of the layers.
        devices: a name for every replica.
    """
    folder = Path(options.model_dir)
    flags = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    session = {
        "begun": begun,
        **_until_now(begun),
        "epochs_before": resumed_after,
        "epochs_after": len(rows),
        "state": state,
    }
    data = _dataset(options, dataset, train_folds)
    sessions = [*_earlier(folder / FILE_NAME, options, data["fingerprint"], begun), session]
    card = {
        "state": state,
        "flags": flags,
        "not_default": [name for name in flags if flags[name] != _default(options, name)],
        "versions": versions(addons=options.optimizer in _OF_ADDONS),
        "arithmetic": {"precision": precision, "devices": list(devices)},
        "dataset": data,
        "network": {**network, "patch_shape": list(patch_shape)},
        "result": {
            "finished_epochs": len(rows),
            "best_epoch": best_epoch,
            "best": _row(rows, best_epoch),
            "last": _row(rows, len(rows)),
        },
        "timings": _timings(rows, sessions),
        "sessions": sessions,
    }
    files.write_json(folder / FILE_NAME, card)
    files.write_text(folder / TEXT_NAME, run_card_text.text(card))


def now():
    """The time in UTC, to the millisecond, as ISO 8601 has it."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")


def versions(addons=False):
    """Name -> version of what a run depends on; of TensorFlow Addons where it takes part."""
    packages = ["tensorflow", *(["tensorflow-addons"] if addons else []), "numpy"]
    return {
        "brats-tfrecord": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def _until_now(begun):
    last = now()
    length = datetime.datetime.fromisoformat(last) - datetime.datetime.fromisoformat(begun)
    return {"last_seen": last, "seconds": length.total_seconds()}


def _default(options, name):
    """A flag's default; `dataclasses.MISSING`, unlike any value, of a required one."""
    return type(options).__dataclass_fields__[name].default


def _dataset(options, dataset, train_folds):
    folds = {
        "training": list(train_folds),
        "validation": list(options.validation_folds),
        "test": list(options.test_folds),
    }
    return {
        "fingerprint": dataset.fingerprint,
        "label_scheme": dataset.label_scheme.name,
        "crop_shape": list(dataset.crop_shape),
        "folds": folds,
        "cases": {use: len(dataset.case_ids(chosen)) for use, chosen in folds.items()},
    }


def _earlier(path, options, fingerprint, begun):
    """The sessions before this one, of the same run."""
    try:
        card = files.read_json(path)
        before = [dict(session) for session in card["sessions"] if session["begun"] != begun]
        of_this_run = card["dataset"]["fingerprint"] == fingerprint and all(
            card["flags"].get(name) == value for name, value in options.identity().items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return []  # none yet; or a damaged card, which is no reason to stop a run
    for session in before:
        if session.get("state") == RUNNING:
            session["state"] = KILLED
    return before if of_this_run else []


def _row(rows, epoch):
    """What was measured in `epoch`."""
    found = [row for row in rows if row["epoch"] == epoch]
    return {name: value for row in found for name, value in row.items() if value is not None}


def _timings(rows, sessions):
    """Seconds and rates; None where nothing was measured.

    Sessions count from their beginning to their last sign of life, training only the steps.
    """

    def measured(name):
        return [row[name] for row in rows if row.get(name) is not None]

    def median(name):
        return float(np.median(measured(name))) if measured(name) else None

    waits = [row for row in rows if row.get("input_wait") is not None]
    waited = sum(row["input_wait"] * row["seconds"] for row in waits)
    return {
        "sessions_seconds": sum(session["seconds"] for session in sessions),
        "training_seconds": float(sum(measured("seconds"))),
        "epoch_seconds_median": median("seconds"),
        "volumes_per_second_median": median("volumes_per_second"),
        "input_wait": waited / sum(row["seconds"] for row in waits) if waits else None,
    }
