"""Reports the progress of a run: printed lines, progress bars, history, pictures, run card."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from tqdm import tqdm

from brats_tfrecord import spec
from brats_tfrecord.errors import InputError, Stopped, TrainingDiverged
from brats_tfrecord.training import run_card
from brats_tfrecord.training.checkpoints import Position
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.logbook.history import History
from brats_tfrecord.training.logbook.overlays import Overlays
from brats_tfrecord.training.run_card import RunCard
from brats_tfrecord.training.trainer import Trainer
from brats_tfrecord.wording import duration


class NullJournal:
    """The journal of a process that is not the chief: accepts every call and reports nothing."""

    @property
    def rows(self) -> list[dict]:
        """One dict per epoch, see `history.COLUMNS`."""
        return []

    @property
    def notices(self) -> list[str]:
        """Lines about damage to the run's folder that its user should know of."""
        return []

    @property
    def best_epoch(self) -> int | None:
        """The first epoch with the highest mean Dice; None if no epoch was validated."""
        return None

    def session(self) -> AbstractContextManager[None]:
        """Returns the context in which this session trains."""
        return contextlib.nullcontext()

    def say(self, line: str) -> None:
        """Prints a line without breaking a progress bar."""

    def bar(self, iterable: Iterable | None = None, **options: Any) -> tqdm:
        """Makes a progress bar; the arguments are those of tqdm."""
        return tqdm(iterable, disable=True)

    @property
    def drawn_slices(self) -> dict[int, int]:
        """Index of each validation case that is drawn -> index of its axial slice in the crop."""
        return {}

    def draw_predictions(self, epoch: int, predictions: Mapping[int, np.ndarray]) -> None:
        """Draws the predictions of a validation.

        Args:
            epoch: the epoch, counted from 1.
            predictions: case -> int [X, Y], canonical classes of its slice, for each case of
                `drawn_slices`.
        """

    def add_epoch(self, row: dict, redraw: bool) -> None:
        """Adds the history row of an epoch; also redraws history.png if `redraw`."""


class Journal(NullJournal):
    """The journal of the chief, or of a run with a single process."""

    def __init__(self, trainer: Trainer, finished_epochs: int) -> None:
        """Reads the history that earlier sessions of the run have written.

        Args:
            trainer: the trainer of the run.
            finished_epochs: number of epochs that the restored checkpoint has behind it.

        Raises:
            InputError: history.csv has rows of several epochs, but there is no checkpoint.
        """
        options = trainer.options
        known_rows = run_card.measured_rows(run_card.read(trainer))
        self._history = History(options.model_dir, finished_epochs, known_rows)
        self._card = RunCard(trainer, finished_epochs)
        self._overlays = Overlays(
            trainer.dataset,
            options.validation_folds,
            options.modality_names,
            cache=options.cache,
            cache_dir=options.cache_dir,
        )

    @property
    def rows(self) -> list[dict]:
        return self._history.rows

    @property
    def notices(self) -> list[str]:
        return self._history.notices

    @property
    def best_epoch(self) -> int | None:
        return self._history.best_epoch

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Records in the run card when the session begins, and when and how it ends."""
        self._write_card(run_card.RUNNING)
        try:
            yield
        except (Stopped, TrainingDiverged) as error:
            self._write_card(str(error).split(";")[0])
            raise
        except InputError as error:
            self._write_card(f"failed: {error}")
            raise
        except BaseException as error:
            self._write_card(f"failed: {type(error).__name__}: {str(error)[:200]}")
            raise
        self._write_card("finished")

    def say(self, line: str) -> None:
        tqdm.write(line)

    def bar(self, iterable: Iterable | None = None, **options: Any) -> tqdm:
        return tqdm(iterable, leave=False, disable=None, dynamic_ncols=True, **options)

    @property
    def drawn_slices(self) -> dict[int, int]:
        return self._overlays.slices

    def draw_predictions(self, epoch: int, predictions: Mapping[int, np.ndarray]) -> None:
        self._history.add_images(epoch, self._overlays.draw(epoch, predictions))

    def add_epoch(self, row: dict, redraw: bool) -> None:
        self._history.add(row)
        if redraw:
            self._history.draw()
        # If the process is killed, the card still tells when it was last seen alive.
        self._write_card(run_card.RUNNING)

    def _write_card(self, state: str) -> None:
        self._card.write(state, self.rows, self.best_epoch)


def opening_line(trainer: Trainer, position: Position) -> str:
    """Describes in one line what is trained, on which cases, and from which position."""
    options, dataset = trainer.options, trainer.dataset
    steps = f" and {position.step} steps" if position.step else ""
    resumed = (
        f", after {position.epoch} finished epochs{steps}"
        if position.epoch or position.step
        else ""
    )
    emulated = (
        " (emulated by this CPU: --precision=float32 is many times faster)"
        if trainer.emulates_precision
        else ""
    )
    return (
        f"training on {len(dataset.case_ids(trainer.train_folds))} cases, validating on "
        f"{len(dataset.case_ids(options.validation_folds))}: patches "
        f"{'x'.join(map(str, trainer.patch_shape))} of {','.join(options.input_names)}, batch "
        f"{options.batch_size} over {trainer.strategy.num_replicas_in_sync} replica(s) on "
        f"{devices.describe(trainer.strategy)}, "
        f"{trainer.precision}{emulated}{resumed}"
    )


def epoch_line(row: Mapping[str, float | None], epochs: int, seconds_left: float) -> str:
    """Summarizes an epoch in one line of at most 120 columns.

    Args:
        row: dict with the keys of `history.COLUMNS`; missing and None values are left out.
        epochs: epochs of the whole run.
        seconds_left: estimated time until the last epoch ends.

    Returns:
        Text such as "epoch 12/30  loss 0.4321  val 0.5012  Dice WT 0.901 TC 0.850 ET 0.803"
        with "  2.31 volumes/s  input-wait 3%  ETA 1:02:33" after it.
    """
    parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}", f"loss {row['loss']:.4f}"]
    if row.get("val_loss") is not None:
        parts.append(f"val {row['val_loss']:.4f}")
    dice = {region: row.get(f"val_dice_{region}") for region in spec.REGIONS}
    if None not in dice.values():
        parts.append("Dice " + " ".join(f"{name} {value:.3f}" for name, value in dice.items()))
    parts.append(f"{row['volumes_per_second']:.2f} volumes/s")
    if row.get("input_wait") is not None:
        parts.append(f"input-wait {row['input_wait']:.0%}")
    return "  ".join([*parts, f"ETA {duration(seconds_left)}"])
