"""The folder of a run: run.json records its options and dataset, a lock keeps others out."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.records.manifest import Manifest
from brats_tfrecord.training import checkpoints
from brats_tfrecord.training.distribution.peers import Peers
from brats_tfrecord.training.train_options import TrainOptions

RUN_FILE = "run.json"
_LOCK = ".lock"
_MACHINE_OPTIONS = ("data_dir", "model_dir", "cache", "cache_dir")
"""Options that may differ between the machines of a multiworker run."""
_RESULTS = ("history.csv", "saved_model", checkpoints.FOLDER)
"""Files and folders that are worth keeping; a folder with any of them belongs to its run."""


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


def claim(options: TrainOptions, manifest: Manifest) -> None:
    """Records a new run in `options.model_dir`, or checks that the folder belongs to this run.

    A run that wrote no results has nothing to lose, and its folder is taken over.

    Raises:
        InputError: the folder holds something else, or results of a run with other options or
            another dataset; the message names every difference.
    """
    root = Path(options.model_dir)
    run = {"dataset": manifest.fingerprint, "options": options.identity()}
    path = root / RUN_FILE
    _require_run_or_empty(root)
    if path.is_file() and _has_results(root):
        _require_same_run(options.model_dir, _read(path), run)
    files.require_writable("--model_dir", root)
    files.write_json(path, run)


def claim_together(options: TrainOptions, manifest: Manifest, peers: Peers) -> None:
    """Claims the folder in the chief, after all processes agree on options and dataset.

    Raises:
        InputError: in every process, as `claim`, or because options or datasets differ.
    """
    flags = {
        f"--{name}": value
        for name, value in dataclasses.asdict(options).items()
        if name not in _MACHINE_OPTIONS
    }
    peers.require_same({**flags, "the dataset": manifest.fingerprint})
    with peers.together():
        if peers.chief:
            claim(options, manifest)


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


def _has_results(root: Path) -> bool:
    """Whether the run, or any fold of a cross-validation, has written results."""
    return any(
        (folder / name).exists() for folder in (root, *root.glob("fold*")) for name in _RESULTS
    )


def _read(path: Path) -> dict:
    try:
        run = json.loads(path.read_text())
        return {"dataset": str(run["dataset"]), "options": dict(run["options"])}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged; choose a new --model_dir") from error


def _require_same_run(model_dir: str, before: dict, now: dict) -> None:
    differences = [
        f"--{name} was {before['options'].get(name)}, now {now['options'].get(name)}"
        for name in sorted({*before["options"], *now["options"]})
        if before["options"].get(name) != now["options"].get(name)
    ]
    if before["dataset"] != now["dataset"]:
        differences.append(
            "--data_dir holds another dataset (fingerprint was "
            f"{before['dataset'][:12]}, now {now['dataset'][:12]})"
        )
    if differences:
        raise InputError(
            f"--model_dir={model_dir}: belongs to another run: "
            f"{'; '.join(differences)}; give the flags of that run, or choose a new folder"
        )
