"""What a run leaves for people to look at: progress, history, pictures, its card."""

import contextlib

from tqdm import tqdm

from brats_tfrecord.errors import InputError, Stopped, TrainingDiverged
from brats_tfrecord.training.logbook import run_card
from brats_tfrecord.training.logbook.history import History
from brats_tfrecord.training.logbook.overlays import Overlays


class NullJournal:
    """The journal of a process that is not the chief: it takes everything and tells nothing.

    Attributes:
        rows: one dict an epoch, see `history.COLUMNS`.
        best_epoch: the first of the highest mean Dice; None if none was validated.
    """

    rows, best_epoch = (), None

    def session(self):
        """Context of the epochs that this session trains."""
        return contextlib.nullcontext()

    def say(self, line):
        """Prints a line."""

    def bar(self, iterable=None, **how):
        """A progress bar, as tqdm's."""
        return tqdm(iterable, disable=True)

    def predicted(self, cases, classes):
        """Takes what was predicted for a batch of validation cases.

        Args:
            cases: int [B], places among the validation folds' cases.
            classes: int [B, X, Y, Z] canonical classes of the whole crops.
        """

    def validated(self, epoch):
        """Shows what was predicted since, at the end of a validation."""

    def add(self, row, draw):
        """Adds the row of an epoch, and draws the pictures anew if `draw`."""


class Journal(NullJournal):
    """The journal of a run that is alone, or of the chief of many processes."""

    def __init__(self, trainer, finished_epochs):
        """Takes up where an earlier session of the run left off.

        Args:
            trainer: `trainer.Trainer`.
            finished_epochs: whose rows there must be.

        Raises:
            InputError: history.csv lacks some of them.
        """
        options = trainer.options
        self._trainer, self._epochs_before = trainer, finished_epochs
        self._history = History(options.model_dir, finished_epochs)
        self._began = run_card.now()
        self._overlays = Overlays(
            trainer.dataset,
            options.validation_folds,
            options.modality_names,
            cache=options.cache,
            cache_dir=options.cache_dir,
        )

    @property
    def rows(self):
        """One dict an epoch, see `history.COLUMNS`."""
        return self._history.rows

    @property
    def best_epoch(self):
        """The first of the highest mean Dice; None if none was validated."""
        return self._history.best_epoch

    @contextlib.contextmanager
    def session(self):
        """Writes the run card when the session begins and when it ends, however."""
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

    def say(self, line):
        tqdm.write(line)

    def bar(self, iterable=None, **how):
        return tqdm(iterable, leave=False, disable=None, dynamic_ncols=True, **how)

    def predicted(self, cases, classes):
        for case, predicted in zip(cases, classes):
            self._overlays.take(case, predicted)

    def validated(self, epoch):
        self._history.add_images(epoch, self._overlays.draw(epoch))

    def add(self, row, draw):
        self._history.add(row)
        if draw:
            self._history.draw()
        self._write_card(run_card.RUNNING)

    def _write_card(self, state):
        trainer = self._trainer
        run_card.write(
            trainer.options,
            trainer.dataset,
            begun=self._began,
            state=state,
            resumed_after=self._epochs_before,
            rows=self.rows,
            best_epoch=self.best_epoch,
            train_folds=trainer.train_folds,
            patch_shape=trainer.patch_shape,
            precision=trainer.precision,
            devices=trainer.strategy.extended.worker_devices,
            network={
                "name": trainer.options.network,
                "stride": trainer.network.stride,
                "parameters": trainer.network.model.count_params(),
            },
        )
