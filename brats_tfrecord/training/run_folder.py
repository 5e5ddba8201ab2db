"""The folder of a run: run.json records what it is, a lock keeps others out.

In a multiworker run it is also where a worker leaves the message that all of them are to end with.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

from brats_tfrecord import files
from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.records.manifest import Manifest
from brats_tfrecord.training import run_card
from brats_tfrecord.training.distribution.peers import Peers
from brats_tfrecord.training.run_file import RUN_FILE, has_results
from brats_tfrecord.training.train_options import DOCUMENTED, TrainOptions

_LOCK = ".lock"
_INPUT_ERROR = ".input_error"
_MESSAGE_SECONDS = 3.0
"""How long to wait for the message of a worker whose loss was noticed before it has written it."""
_MACHINE_OPTIONS = ("data_dir", "model_dir", "cache", "cache_dir")
"""Options that may differ between the machines of a multiworker run."""


@contextlib.contextmanager
def held(options: TrainOptions, peers: Peers) -> Iterator[None]:
    """Locks `options.model_dir` against other trainings while the block runs.

    If the block raises an InputError before the run wrote anything, the folder is free again for
    a run with other options.

    Raises:
        InputError: in all processes of the run, if another training uses the folder, the folder
            holds something else, or it cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        with peers.together():
            if peers.chief:
                stack.enter_context(_locked(Path(options.model_dir)))
        yield


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    _require_run_or_empty(root)
    files.require_writable("--model_dir", root)
    try:
        with files.locked(root / _LOCK):
            files.remove_orphans(root)
            (root / _INPUT_ERROR).unlink(missing_ok=True)
            try:
                yield
            except InputError:
                _remove_bare_claim(root)
                raise
    except files.Locked as holder:
        raise InputError(
            f"--model_dir={root}: another training is using this folder ({holder}); wait "
            "for it, or choose another folder"
        ) from holder


def _remove_bare_claim(root: Path) -> None:
    """Removes run.json if the folder holds nothing else."""
    if {path.name for path in root.iterdir()} <= {RUN_FILE, _LOCK}:
        (root / RUN_FILE).unlink(missing_ok=True)


@contextlib.contextmanager
def input_errors_shared(options: TrainOptions, peers: Peers) -> Iterator[None]:
    """Ends every process with the `InputError` that the block raises in any of them.

    An error in the middle of training cannot be agreed on: the other processes wait for this one
    within a step. It leaves its message in the folder, where they find it when they notice its
    loss.

    Raises:
        InputError: the own error, or that of another process, which the message names.
        Stopped: as the block raises it, if no process has left a message.
    """
    message = Path(options.model_dir) / _INPUT_ERROR
    try:
        yield
    except InputError as error:
        if peers.count > 1:
            with contextlib.suppress(OSError):  # the error itself matters more
                files.write_text(message, f"{peers.name}: {error}")
        raise
    except Stopped as stop:
        if peers.count > 1 and stop.is_lost_peer:
            end = time.monotonic() + _MESSAGE_SECONDS
            while not message.is_file() and time.monotonic() < end:
                time.sleep(0.1)
            if message.is_file():
                raise InputError(message.read_text("utf-8")) from stop
        raise


def claim(options: TrainOptions, manifest: Manifest, precision: str | None = None) -> None:
    """Records a new run in `options.model_dir`, or checks that the folder belongs to this run.

    A run that wrote no results has nothing to lose, and its folder is taken over.

    Args:
        options: options of the run.
        manifest: manifest of its dataset.
        precision: what --precision means on these devices; None if the runs of a cross-validation
            in this folder are to check it.

    Raises:
        InputError: the folder holds something else, or results of a run with other options or
            another dataset; the message names every difference.
    """
    root = Path(options.model_dir)
    run = {
        "dataset": manifest.fingerprint,
        "options": {name: x for name, x in options.identity().items() if name != "precision"},
        "precision": precision,
    }
    if options.preset != DOCUMENTED:
        values = {name: getattr(options, name) for name in options.from_preset}
        run["preset"] = {"name": options.preset, "values": values}
    path = root / RUN_FILE
    _require_run_or_empty(root)
    if path.is_file() and has_results(root):
        before = _read(path)
        _require_same_run(options, before, run)
        if before["is_older"] and options.decay_rate:
            print(
                f"{path}: this run was begun by an earlier version; from here on, --weight_decay "
                "leaves biases and the parameters of norm layers alone",
                flush=True,
            )
    files.require_writable("--model_dir", root)
    files.write_json(path, run)


def claim_together(options: TrainOptions, manifest: Manifest, precision: str, peers: Peers) -> None:
    """Claims the folder in the chief, after all processes agree on options, dataset and precision.

    Raises:
        InputError: in every process, as `claim`, or because these differ.
    """
    flags = {
        f"--{name}": value
        for name, value in dataclasses.asdict(options).items()
        if name not in _MACHINE_OPTIONS
    }
    peers.require_same(
        {**flags, "the dataset": manifest.fingerprint, "what --precision=auto means": precision}
    )
    with peers.together():
        if peers.chief:
            claim(options, manifest, precision)


def _require_run_or_empty(root: Path) -> None:
    """Raises `InputError` if the folder holds anything but a run."""
    if root.exists() and not root.is_dir():
        raise InputError(f"--model_dir={root}: is a file; expected a folder")
    if (
        root.is_dir()
        and not (root / RUN_FILE).is_file()
        and any(path.name != _LOCK for path in root.iterdir())
    ):
        raise InputError(
            f"--model_dir={root}: holds no run ({RUN_FILE} is missing), but is not "
            "empty; choose a new folder"
        )


def _read(path: Path) -> dict:
    """Reads run.json; `is_older` is true if it was written before it recorded the precision.

    What auto meant in such a run is in its run card. Without a card it is unknown (None).
    """
    try:
        run = json.loads(path.read_text())
        options = dict(run["options"])
        given = options.pop("precision", None)
        is_older = "precision" not in run
        precision = given if is_older else run["precision"]
        if is_older and given == "auto":
            precision = _carded_precision(path.with_name(run_card.FILE_NAME))
        return {
            "dataset": str(run["dataset"]),
            "options": options,
            "precision": precision,
            "is_older": is_older,
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged; choose a new --model_dir") from error


def _carded_precision(path: Path) -> str | None:
    try:
        return str(files.read_json(path)["arithmetic"]["precision"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _require_same_run(options: TrainOptions, before: dict, now: dict) -> None:
    differences = _option_differences(before["options"], now["options"])
    if now["precision"] and before["precision"] and before["precision"] != now["precision"]:
        auto = (
            f", which auto means on this machine: give --precision={before['precision']}"
            if options.precision == "auto"
            else ""
        )
        differences.append(f"--precision was {before['precision']}, now {now['precision']}{auto}")
    if before["dataset"] != now["dataset"]:
        differences.append(
            "--data_dir holds another dataset (fingerprint was "
            f"{before['dataset'][:12]}, now {now['dataset'][:12]})"
        )
    if differences:
        raise InputError(
            f"--model_dir={options.model_dir}: belongs to another run: "
            f"{'; '.join(differences)}; give the flags of that run, or choose a new folder"
        )


def _option_differences(before: dict, now: dict) -> list[str]:
    """Describes each option that differs.

    An option that was not recorded is one that its version did not have, and which it left at
    what is the default now. --epochs is recorded with some schedules only: without it on both
    sides, the schedules differ, and that is said already.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(TrainOptions)}
    differences = []
    for name in sorted({*before, *now}):
        if name == "epochs" and not (name in before and name in now):
            continue
        was, is_now = before.get(name, defaults.get(name)), now.get(name)
        if was != is_now:
            differences.append(f"--{name} was {was}, now {is_now}")
    return differences
