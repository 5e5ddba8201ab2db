"""The state of a run on disk: where it goes on, and its best model.

checkpoints/last-00012-000340.*    after 340 steps of the epoch that follows the 12th
checkpoints/best-00009.*           the model of the best epoch
"""

import contextlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from brats_tfrecord.errors import InputError

FOLDER = "checkpoints"


@dataclass
class Position:
    """How far a run is, and what the epoch under way has summed up.

    Attributes:
        epoch: finished epochs.
        step: steps made of the epoch that follows.
        loss, accuracy: sums over these steps.
        seconds, waited: spent on these steps, and of that on waiting for input.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0


class Checkpoints:
    """Last and best state of a run on disk.

    A checkpoint's index file is written last and carries the position in its name, so what can be
    seen is whole. Nothing is deleted before its successor stands.
    """

    def __init__(self, model_dir, model, updates):
        """Of `model` with all weights that are trained, and its `updates.Updates`."""
        self._folder = Path(model_dir) / FOLDER
        self._sums = tf.Variable(tf.zeros(4, tf.float64), trainable=False)
        self._last = tf.train.Checkpoint(model=model, updates=updates, sums=self._sums)
        self._best = tf.train.Checkpoint(model=model)

    def restore_last(self):
        """Restores the newest state; returns its `Position`, that of a new run if there is none."""
        there = self._there()
        if not there:
            return Position()
        epoch, step = max(there)
        self._read(self._last, _last_name(epoch, step))
        return Position(epoch, step, *map(float, self._sums.numpy()))

    def save_last(self, position):
        """Saves the state at `position`; older ones go."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sums.assign([position.loss, position.accuracy, position.seconds, position.waited])
        name = _last_name(position.epoch, position.step)
        self._last.write(str(self._folder / name))
        self._remove_all_but("last", name)

    def save_best(self, epoch, validated=None):
        """Saves the model of `epoch`, counted from 1, the best so far.

        Args:
            epoch: counted from 1.
            validated: context in which the model holds the weights that were validated, where
                they are not the trained ones (`updates.Updates.averaged`).
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with validated or contextlib.nullcontext():
            self._best.write(str(self._folder / _best_name(epoch)))

    def restore_best(self, epoch):
        """Restores the model of the best `epoch`."""
        self._read(self._best, _best_name(epoch))

    def forget_best_but(self, epoch):
        """Removes the models of epochs that are not the best any more."""
        self._remove_all_but("best", _best_name(epoch or 0))

    def _read(self, checkpoint, name):
        path = str(self._folder / name)
        try:
            checkpoint.read(path).assert_consumed()
        except (tf.errors.OpError, OSError, IndexError, ValueError, AssertionError) as error:
            raise InputError(
                f"{path}: this checkpoint is damaged or incomplete; restore the "
                "folder from a copy, or choose a new --model_dir"
            ) from error

    def _there(self):
        """(epoch, step) of the states that stand."""
        names = (
            re.fullmatch(r"last-(\d+)-(\d+)\.index", path.name)
            for path in self._folder.glob("last-*.index")
        )
        return [tuple(map(int, name.groups())) for name in names if name]

    def _remove_all_but(self, kind, kept):
        for path in self._folder.glob(f"{kind}-*"):
            # TensorFlow leaves folders of parts behind when it is killed while writing.
            name = re.match(r"\w+-[\d-]+", path.name)
            if name and name[0] != kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _last_name(epoch, step):
    return f"last-{epoch:05d}-{step:06d}"


def _best_name(epoch):
    return f"best-{epoch:05d}"
