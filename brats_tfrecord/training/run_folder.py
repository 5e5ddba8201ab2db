"""What a run keeps in its `model_dir`: the claim on the folder, and its checkpoints.

    run.json                    the options and the dataset that the run is made of
    checkpoints/last-00012.*    model, optimizer, epoch: where a rerun goes on
    checkpoints/best-00009.*    the model of the best epoch
"""

import json
import re
import shutil
from pathlib import Path

import tensorflow as tf

from brats_tfrecord import files
from brats_tfrecord.errors import InputError

RUN_FILE = "run.json"
CHECKPOINTS = "checkpoints"


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
    if path.is_file():
        if any((root / name).exists() for name in ("history.csv", "saved_model", CHECKPOINTS)):
            _compare(options.model_dir, _read(path), now)
    elif root.exists() and (not root.is_dir() or any(root.iterdir())):
        if not root.is_dir():
            raise InputError(f"--model_dir={root}: is a file; expected a folder")
        raise InputError(f"--model_dir={root}: holds no run ({RUN_FILE} is missing), but is not "
                         "empty; choose a new folder")
    files.require_writable("--model_dir", root)
    files.write_json(path, now)


class Checkpoints:
    """Last and best state of a run on disk.

    A checkpoint's index file is written last and carries the epoch in its name, so what can be
    seen is whole. Nothing is deleted before its successor stands.
    """

    def __init__(self, model_dir, model, optimizer):
        self._folder = Path(model_dir) / CHECKPOINTS
        self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._last = tf.train.Checkpoint(model=model, optimizer=optimizer, epoch=self._epoch)
        self._best = tf.train.Checkpoint(model=model)

    def restore_last(self):
        """Restores the newest state; returns its epoch, counted from 1, or 0 if there is none."""
        epoch = max(self._epochs("last"), default=0)
        if epoch:
            # Slots of LAMB do not exist before the first step: they are restored as they appear.
            self._read(self._last, "last", epoch, partial=True)
        return epoch

    def save(self, epoch, best_epoch):
        """Saves the state after `epoch`, which is the best so far if it equals `best_epoch`.

        A best epoch of None keeps no best model: the last one counts.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._epoch.assign(epoch)
        if best_epoch == epoch:
            self._best.write(self._prefix("best", epoch))
        self._last.write(self._prefix("last", epoch))
        self._remove_all_but({("last", epoch), ("best", best_epoch)})

    def restore_best(self, epoch):
        """Restores the model of the best `epoch`."""
        self._read(self._best, "best", epoch)

    def _read(self, checkpoint, kind, epoch, partial=False):
        path = self._prefix(kind, epoch)
        try:
            status = checkpoint.read(path)
            if partial:
                status = status.expect_partial()
            status.assert_existing_objects_matched()
        except (tf.errors.OpError, OSError, IndexError, ValueError, AssertionError) as error:
            raise InputError(f"{path}: this checkpoint is damaged or incomplete; restore the "
                             "folder from a copy, or choose a new --model_dir") from error

    def _prefix(self, kind, epoch):
        return str(self._folder / f"{kind}-{epoch:05d}")

    def _epochs(self, kind):
        return [int(path.stem.split("-")[1]) for path in self._folder.glob(f"{kind}-*.index")]

    def _remove_all_but(self, kept):
        for path in self._folder.iterdir():
            name = re.match(r"(last|best)-(\d+)", path.name)
            if name and (name[1], int(name[2])) not in kept:
                # TensorFlow leaves folders of parts behind when it is killed while writing.
                shutil.rmtree(path) if path.is_dir() else path.unlink()


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
        differences.append("--data_dir holds another dataset (fingerprint was "
                           f"{before['dataset'][:12]}, now {now['dataset'][:12]})")
    if differences:
        raise InputError(f"--model_dir={model_dir}: belongs to another run: "
                         f"{'; '.join(differences)}; go back to its flags, or choose a new folder")
