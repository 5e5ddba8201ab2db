"""The claim of a run on its `model_dir`: run.json, the options and the dataset it is made of."""

import contextlib
import dataclasses
import json
from pathlib import Path

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.training import checkpoints

RUN_FILE = "run.json"
_LOCK = ".lock"
_OF_ONE_MACHINE = ("data_dir", "model_dir", "cache", "cache_dir")
_WORTH_KEEPING = ("history.csv", "saved_model", checkpoints.FOLDER)


@contextlib.contextmanager
def held(options, peers):
    """Keeps other trainings out of `options.model_dir` while this one is at work there.

    Raises:
        InputError: in all processes of the run, if another training holds the folder or it is
            none that can be written to.
    """
    with contextlib.ExitStack() as stack:
        with peers.together():
            if peers.chief:
                stack.enter_context(_locked(Path(options.model_dir)))
        yield


@contextlib.contextmanager
def _locked(root):
    _require_own(root)
    files.require_writable("--model_dir", root)
    try:
        with files.locked(root / _LOCK):
            files.remove_orphans(root)
            try:
                yield
            except InputError:
                _give_back(root)
                raise
    except files.Locked as holder:
        raise InputError(
            f"--model_dir={root}: another training is at work there ({holder}); wait "
            "for it, or choose another folder"
        ) from holder


def _give_back(root):
    """Takes the claim out of a folder that a refused run has left nothing else in."""
    if {path.name for path in root.iterdir()} <= {RUN_FILE, _LOCK}:
        (root / RUN_FILE).unlink(missing_ok=True)


def claim(options, manifest):
    """Takes `options.model_dir` for a new run, or checks that it belongs to this very run.

    A run that left nothing but its claim has nothing to lose, and gives way to another.

    Raises:
        InputError: the folder holds something else, or a run with other flags or another
            dataset; every difference is named.
    """
    root = Path(options.model_dir)
    now = {"dataset": manifest.fingerprint, "options": options.identity()}
    path = root / RUN_FILE
    _require_own(root)
    if path.is_file() and _holds_work(root):
        _compare(options.model_dir, _read(path), now)
    files.require_writable("--model_dir", root)
    files.write_json(path, now)


def claim_together(options, manifest, peers):
    """Claims the folder in the chief, once all processes of the run agree on what it is.

    Args:
        options, manifest: as of `claim`.
        peers: `peers.Peers`.

    Raises:
        InputError: in every process: as `claim`, or since flags or datasets differ.
    """
    flags = {
        f"--{name}": value
        for name, value in dataclasses.asdict(options).items()
        if name not in _OF_ONE_MACHINE
    }
    peers.require_same({**flags, "the dataset": manifest.fingerprint})
    with peers.together():
        if peers.chief:
            claim(options, manifest)


def _require_own(root):
    """Refuses a folder that holds something, and no run."""
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


def _holds_work(root):
    """Whether a run, or one of the folds of a cross-validation, left more than its claim."""
    return any(
        (folder / name).exists()
        for folder in (root, *root.glob("fold*"))
        for name in _WORTH_KEEPING
    )


def _read(path):
    try:
        run = json.loads(path.read_text())
        return {"dataset": str(run["dataset"]), "options": dict(run["options"])}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged; choose a new --model_dir") from error


def _compare(model_dir, before, now):
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
            f"{'; '.join(differences)}; go back to its flags, or choose a new folder"
        )
