"""The saved states of a run, from which it resumes, and its best model.

checkpoints/last-00012-000340.*    state after 12 epochs and 340 steps of the next one
checkpoints/last-00012-000210.*    the state before that one, for the case that it is damaged
checkpoints/best-00009.*           model after epoch 9, the best epoch so far

A checkpoint is two files: `.data-00000-of-00001`, and `.index`, which is written last. Both hold
checksums, so a truncated file does not pass for a whole one.
"""

import contextlib
import re
import shutil
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from brats_tfrecord import files
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


def has_state(model_dir: Path | str) -> bool:
    """Returns whether a run has saved a state in its folder."""
    return any((Path(model_dir) / FOLDER).glob("last-*.index"))


class Checkpoints:
    """Saves and restores the last two states and the best model of a run.

    A checkpoint is written to a folder of its own, waits until it is on the disk, and is then moved
    in place. Only then are older ones removed, so that a kill or a power failure at any moment
    leaves a whole one.

    Attributes:
        notices: lines about damaged states that `restore_last` did not use.
    """

    def __init__(
        self, model_dir: Path | str, model: tf.keras.Model, updates: Updates, plan_size: int = 0
    ) -> None:
        """Prepares saving and restoring; touches no file.

        Args:
            model_dir: folder of the run.
            model: model that contains all trained weights.
            updates: optimizer state of the run.
            plan_size: how many numbers of a plan (`RunLength.to_numbers`) each state has.
        """
        self._folder = Path(model_dir) / FOLDER
        self._sums = tf.Variable(tf.zeros(4, tf.float64), trainable=False)
        self._plan = tf.Variable(tf.zeros(plan_size, tf.float64), trainable=False)
        plan = {"plan": self._plan} if plan_size else {}
        self._last = tf.train.Checkpoint(model=model, updates=updates, sums=self._sums, **plan)
        self._best = tf.train.Checkpoint(model=model)
        self._newest: str | None = None
        self.notices: list[str] = []

    def restore_last(self) -> Position:
        """Restores the newest whole state and returns its position; `Position()` if there is none.

        Raises:
            InputError: there are states, but all of them are damaged.
        """
        damage: list[InputError] = []
        for epoch, step in sorted(self._saved_states(), reverse=True):
            name = _last_name(epoch, step)
            try:
                self._read(self._last, name)
            except InputError as error:
                damage.append(error)
                continue
            if damage:
                self._note_damage(f"the state before it, {name}")
            self._newest = name
            return Position(epoch, step, *map(float, self._sums.numpy()))
        # A first save that was cut short has no index yet, and nothing is lost.
        if damage and any(self._folder.glob("last-*.index")):
            raise damage[0]
        if damage:
            self._note_damage("the beginning")
        return Position()

    @property
    def plan(self) -> list[float]:
        """The numbers of the plan in the restored state."""
        return self._plan.numpy().tolist()

    def save_last(self, position: Position, plan: Sequence[float] = ()) -> None:
        """Saves the state at `position`; then removes older states but the one before it.

        Nothing is written if the state at this position was the last one saved or restored.
        """
        name = _last_name(position.epoch, position.step)
        if name == self._newest:
            return
        self._plan.assign(tf.constant(plan, tf.float64))
        self._sums.assign([position.loss, position.accuracy, position.seconds, position.waited])
        self._write(self._last, name)
        self._remove_all_but("last", {name, self._newest})
        self._newest = name

    def save_best(
        self, epoch: int, validated_weights: AbstractContextManager | None = None
    ) -> None:
        """Saves the model of the best epoch so far.

        Args:
            epoch: the epoch, counted from 1.
            validated_weights: context in which the model holds the weights that were validated,
                if those are not the trained ones (`updates.Updates.averaged`).
        """
        with validated_weights or contextlib.nullcontext():
            self._write(self._best, _best_name(epoch))

    def restore_best(self, epoch: int) -> None:
        """Restores the model that `save_best` saved for this epoch."""
        self._read(self._best, _best_name(epoch))

    def remove_best_except(self, *epochs: int | None) -> None:
        """Removes the saved models of all epochs but these; None stands for no epoch."""
        self._remove_all_but("best", {_best_name(epoch) for epoch in epochs if epoch})

    def _write(self, checkpoint: tf.train.Checkpoint, name: str) -> None:
        with files.temporary_folder(self._folder / name) as temporary:
            checkpoint.write(str(temporary / name))
            parts = sorted(temporary.glob(f"{name}.*"), key=lambda path: path.suffix == ".index")
            for path in parts:
                files.flush_to_disk(path)
            for path in parts:
                path.replace(self._folder / path.name)
        files.flush_to_disk(self._folder)

    def _read(self, checkpoint: tf.train.Checkpoint, name: str) -> None:
        path = str(self._folder / name)
        try:
            checkpoint.read(path).assert_consumed()
        except (tf.errors.OpError, OSError, IndexError, ValueError, AssertionError) as error:
            raise InputError(
                f"{path}: this checkpoint is damaged or incomplete; restore the "
                "folder from a copy, or choose a new --model_dir"
            ) from error

    def _saved_states(self) -> set[tuple[int, int]]:
        """(epoch, step) of every state, also of those with a part missing."""
        matches = (
            re.fullmatch(r"last-(\d+)-(\d+)\.(index|data-\d+-of-\d+)", path.name)
            for path in self._folder.glob("last-*")
        )
        return {(int(match[1]), int(match[2])) for match in matches if match}

    def _note_damage(self, used: str) -> None:
        newest = self._folder / _last_name(*max(self._saved_states()))
        self.notices.append(
            f"{newest}: this checkpoint is damaged or incomplete; continuing from {used}"
        )

    def _remove_all_but(self, kind: str, kept: Collection[str | None]) -> None:
        for path in self._folder.glob(f"{kind}-*"):
            # A TensorFlow process that is killed while writing leaves folders behind.
            match = re.match(r"\w+-[\d-]+", path.name)
            if match and match[0] not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _last_name(epoch: int, step: int) -> str:
    return f"last-{epoch:05d}-{step:06d}"


def _best_name(epoch: int) -> str:
    return f"best-{epoch:05d}"
