"""The saved state of a run, from which it resumes, and its best model.

checkpoints/last-00012-000340.*    state after 12 epochs and 340 steps of the next one
checkpoints/best-00009.*           model after epoch 9, the best epoch so far
"""

import contextlib
import re
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from brats_tfrecord.errors import InputError
from brats_tfrecord.training.optimization.updates import Updates

FOLDER = "checkpoints"


@dataclass
class Position:
    """How far a run is, with the sums of the current epoch.

    Attributes:
        epoch: number of finished epochs.
        step: number of finished steps of the current epoch.
        loss, accuracy: sums over these steps.
        seconds: time spent on these steps.
        waited: seconds of that time spent waiting for input.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0


class Checkpoints:
    """Saves and restores the last state and the best model of a run.

    TensorFlow writes the index file of a checkpoint last, and its name holds the position, so a
    checkpoint with an index file is complete. An older checkpoint is removed only after the newer
    one is complete.
    """

    def __init__(self, model_dir: Path | str, model: tf.keras.Model, updates: Updates) -> None:
        """Prepares saving and restoring; touches no file.

        Args:
            model_dir: folder of the run.
            model: model that contains all trained weights.
            updates: optimizer state of the run.
        """
        self._folder = Path(model_dir) / FOLDER
        self._sums = tf.Variable(tf.zeros(4, tf.float64), trainable=False)
        self._last = tf.train.Checkpoint(model=model, updates=updates, sums=self._sums)
        self._best = tf.train.Checkpoint(model=model)

    def restore_last(self) -> Position:
        """Restores the newest state and returns its position; `Position()` if there is none."""
        saved = self._saved_states()
        if not saved:
            return Position()
        epoch, step = max(saved)
        self._read(self._last, _last_name(epoch, step))
        return Position(epoch, step, *map(float, self._sums.numpy()))

    def save_last(self, position: Position) -> None:
        """Saves the state at `position`, then removes older states."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sums.assign([position.loss, position.accuracy, position.seconds, position.waited])
        name = _last_name(position.epoch, position.step)
        self._last.write(str(self._folder / name))
        self._remove_all_but("last", name)

    def save_best(
        self, epoch: int, validated_weights: AbstractContextManager | None = None
    ) -> None:
        """Saves the model of the best epoch so far.

        Args:
            epoch: the epoch, counted from 1.
            validated_weights: context in which the model holds the weights that were validated,
                if those are not the trained ones (`updates.Updates.averaged`).
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with validated_weights or contextlib.nullcontext():
            self._best.write(str(self._folder / _best_name(epoch)))

    def restore_best(self, epoch: int) -> None:
        """Restores the model that `save_best` saved for this epoch."""
        self._read(self._best, _best_name(epoch))

    def remove_best_except(self, epoch: int | None) -> None:
        """Removes the saved models of all epochs but this one; None removes all."""
        self._remove_all_but("best", _best_name(epoch or 0))

    def _read(self, checkpoint: tf.train.Checkpoint, name: str) -> None:
        path = str(self._folder / name)
        try:
            checkpoint.read(path).assert_consumed()
        except (tf.errors.OpError, OSError, IndexError, ValueError, AssertionError) as error:
            raise InputError(
                f"{path}: this checkpoint is damaged or incomplete; restore the "
                "folder from a copy, or choose a new --model_dir"
            ) from error

    def _saved_states(self) -> list[tuple[int, int]]:
        """(epoch, step) of every complete state."""
        matches = (
            re.fullmatch(r"last-(\d+)-(\d+)\.index", path.name)
            for path in self._folder.glob("last-*.index")
        )
        return [(int(match[1]), int(match[2])) for match in matches if match]

    def _remove_all_but(self, kind: str, kept: str) -> None:
        for path in self._folder.glob(f"{kind}-*"):
            # A TensorFlow process that is killed while writing leaves folders behind.
            match = re.match(r"\w+-[\d-]+", path.name)
            if match and match[0] != kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _last_name(epoch: int, step: int) -> str:
    return f"last-{epoch:05d}-{step:06d}"


def _best_name(epoch: int) -> str:
    return f"best-{epoch:05d}"
