"""The training loop: epochs, validation, checkpoints and stops. `steps` has the single steps."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from brats_tfrecord import files
from brats_tfrecord.errors import Stopped, TrainingDiverged
from brats_tfrecord.records import manifest as manifests
from brats_tfrecord.records import verify_manifest
from brats_tfrecord.stopping import StopRequest
from brats_tfrecord.training import (
    cross_validation,
    incomplete_cases,
    initial_weights,
    run_costs,
    run_folder,
    tensorflow_errors,
)
from brats_tfrecord.training.checkpoints import Checkpoints, Position
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.distribution.peers import Peers
from brats_tfrecord.training.initial_weights import InitialWeights
from brats_tfrecord.training.journal import Journal, NullJournal, epoch_line, opening_line
from brats_tfrecord.training.late_reader import (
    MOST_UNREAD,
    Checks,
    DispatchedStep,
    LateReader,
    Reading,
)
from brats_tfrecord.training.run_length import RunLength
from brats_tfrecord.training.time_plan import Plan
from brats_tfrecord.training.timed_length import TimedLength
from brats_tfrecord.training.train_options import TrainOptions
from brats_tfrecord.training.trainer import Trainer, TrainResult, make_result
from brats_tfrecord.training.validation import ValidationScores


def train(
    options: TrainOptions, initial: InitialWeights | None = None, began: float | None = None
) -> TrainResult | None:
    """Trains a network, or resumes the run in `options.model_dir`.

    A finished run is not trained again; its result is read from the folder.

    Args:
        options: options of the run.
        initial: the weights that a new run starts from; None for random ones.
        began: `time.monotonic()` from which --time_budget_minutes count; None for now.

    Returns:
        The result; None in processes of a multiworker run that are not the chief.

    Raises:
        InputError: flags that do not fit the dataset, the devices or the run in `model_dir`.
        TrainingDiverged: a loss, gradient or weight is not finite; the last good state is kept.
        Stopped: by a signal or the time limit, after the state was saved; or because the disk is
            full or another process of the run was lost.
    """
    began = time.monotonic() if began is None else began
    # `cleanup` is left after errors were explained: the run card records the explanation.
    with contextlib.ExitStack() as cleanup, tensorflow_errors.explained(options):
        stop = cleanup.enter_context(StopRequest(options.time_limit_minutes).listening())
        dataset, train_folds, strategy = prepare(options, stop)
        peers = Peers(strategy)
        cleanup.enter_context(run_folder.held(options, peers))
        precision = devices.resolve_precision(options.precision, strategy)
        run_folder.claim_together(options, dataset, precision, peers)
        trainer = Trainer(options, dataset, train_folds, strategy, initial)
        run = _Run(trainer, stop, peers, began)
        trains = not run.is_finished
        if not trains:
            run.journal.say(
                f"{options.model_dir}: all {run.position.epoch} epochs are finished; there is "
                "nothing left to train"
            )
        else:
            cleanup.enter_context(contextlib.closing(run.reader))
            cleanup.enter_context(run.journal.session())
            cleanup.enter_context(run_folder.input_errors_shared(options, peers))
            if initial is not None and peers.chief:
                initial_weights.record(initial, options.model_dir)
            run.train()
        return run.result(is_timed=trains) if peers.chief else None


def prepare(
    options: TrainOptions, stop: StopRequest | None = None
) -> tuple[manifests.Manifest, list[int], tf.distribute.Strategy]:
    """Reads the dataset and prepares the devices, and checks the flags against both.

    Args:
        options: options of the run.
        stop: request that ends the wait for the other processes of a multiworker run, or None.

    Returns:
        The manifest of the dataset, the folds to train on, and the strategy.

    Raises:
        InputError, Stopped: as `train`.
    """
    if options.cache_dir:
        files.require_writable("--cache_dir", options.cache_dir)
    dataset = manifests.load(options.data_dir)
    verify_manifest.require_sound(options.data_dir)
    train_folds = cross_validation.train_folds(options, dataset)
    incomplete_cases.require_trainable(options, dataset, train_folds)
    strategy = devices.make_strategy(
        options.gpus,
        options.virtual_devices,
        options.strategy,
        options.peer_wait_minutes,
        stop,
        options.deterministic,
    )
    devices.require_divisible_batch(options.batch_size, strategy)
    return dataset, train_folds, strategy


def make_length(trainer: Trainer, peers: Peers, began: float) -> RunLength:
    """Makes the length of a run.

    Args:
        trainer: the trainer of the run.
        peers: the processes of the run.
        began: `time.monotonic()` from which its time budget counts, if it has one.
    """
    share = trainer.updates.planned_share
    if share is None:
        return RunLength(trainer.options, trainer.epoch_steps)
    return TimedLength(trainer.options, trainer.epoch_steps, share, peers, began)


class _Run:
    """One session of a run: the trainer, the saved state, and the loop over epochs.

    In a multiworker run every process has its own and takes the same steps; only the chief writes
    files.
    """

    def __init__(self, trainer: Trainer, stop: StopRequest, peers: Peers, began: float) -> None:
        """Restores the state that earlier sessions have saved, or plans a run with a time budget.

        Raises:
            InputError: the state is damaged, or the time budget is too short.
        """
        self._trainer, self._options = trainer, trainer.options
        self._stop, self._peers = stop, peers
        self._length = make_length(trainer, peers, began)
        self._checkpoints = Checkpoints(
            self._options.model_dir,
            trainer.network.trainer,
            trainer.updates,
            Plan.size() if self._options.has_time_budget else 0,
        )
        with peers.together():
            self.position = self._checkpoints.restore_last()
        self._restore_plan()
        with peers.together():
            self.journal = (
                Journal(trainer, self.position.epoch, self._length)
                if peers.chief
                else NullJournal()
            )
        # This comparison also keeps the chief from writing before all processes have read.
        peers.require_same({"the checkpoint": (self.position.epoch, self.position.step)})
        for notice in (*self._checkpoints.notices, *self.journal.notices):
            self.journal.say(notice)
        self.reader = LateReader(trainer.strategy)
        self._checks = Checks(self.reader, peers, self._length.save_seconds)
        self._last_finished = 0.0
        self._last_save = time.monotonic()
        self._has_state = self.position != Position()

    def _restore_plan(self) -> None:
        if not isinstance(self._length, TimedLength):
            return
        if self.position == Position():
            self._length.begin(run_costs.measure(self._trainer))
        else:
            self._length.restore(self._checkpoints.plan)

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done."""
        return self.position.epoch >= self._length.epochs

    @property
    def _steps_done(self) -> int:
        """Finished steps of the whole run, of those whose results were read."""
        return self.position.epoch * self._trainer.epoch_steps + self.position.step

    def train(self) -> None:
        """Trains until the last epoch is finished."""
        first, length = self.position.epoch, self._length
        batches = iter(self._trainer.train_batches(first, self.position.step))
        trainer = self._trainer
        self.journal.say(opening_line(trainer, self.position, length))
        if trainer.initial_text and not self._has_state:
            self.journal.say(trainer.initial_text)
        for line in incomplete_cases.lines(trainer.options, trainer.dataset, trainer.train_folds):
            self.journal.say(line)
        began = time.monotonic()
        while not self.is_finished:
            epoch = self.position.epoch + 1
            row = self._train_epoch(epoch, batches)
            if length.validates(epoch):
                with length.validation():
                    self._validate_and_finish(row)
            else:
                self._finish_epoch(row, redraw=epoch == length.epochs)
            seconds_left = (time.monotonic() - began) / (epoch - first) * (length.epochs - epoch)
            self.journal.say(epoch_line(row, length.epochs, seconds_left, length.end_text()))

    def _validate_and_finish(self, row: dict) -> None:
        if self._options.validation_folds:
            self._save()  # a stop during validation then loses nothing
            with self._trainer.updates.averaged():
                row.update(self._validate(row["epoch"]))
        self._finish_epoch(row, redraw=True)

    @functools.cached_property
    def _drawn_slices(self) -> np.ndarray:
        """Index of the axial slice that is drawn of each validation case, or -1.

        Only the chief's journal chooses slices; all processes return them.
        """
        cases = self._trainer.dataset.case_ids(self._options.validation_folds)
        from_one = np.zeros(len(cases))
        for case, index in self.journal.drawn_slices.items():
            from_one[case] = 1 + index
        return self._peers.sum(from_one).astype(int) - 1

    def result(self, is_timed: bool = True) -> TrainResult:
        """Combines the weights of the best epoch with their description.

        Args:
            is_timed: whether a time budget limits what follows. It does not for a run that was
                finished before, and is exported again.
        """
        best_epoch = self.journal.best_epoch or self.position.epoch
        result = make_result(self._trainer, self._best_weights(), self.journal.rows, best_epoch)
        if not is_timed or not isinstance(self._length, TimedLength):
            return result
        return dataclasses.replace(
            result,
            tuning_ends=time.monotonic() + self._length.tuning_seconds_left,
            used_seconds=self._length.used_seconds,
        )

    def _best_weights(self) -> list[np.ndarray]:
        """Weights of the best epoch, or of the last epoch if none was validated.

        If the run averages weights, these are the averages.
        """
        model = self._trainer.network.model
        if self.journal.best_epoch:
            self._checkpoints.restore_best(self.journal.best_epoch)
            weights = model.get_weights()
        else:
            with self._trainer.updates.averaged():
                weights = model.get_weights()
        return [np.asarray(array, np.float32) for array in weights]

    def _train_epoch(self, epoch: int, batches: Iterator) -> dict:
        """Takes the remaining steps of an epoch; returns its training columns of the history."""
        position, length = self.position, self._length
        with self.journal.bar(
            total=length.steps(epoch),
            initial=position.step,
            unit="step",
            desc=f"epoch {epoch}/{length.epochs}",
        ) as bar:
            self._checks.restart()
            while position.step + self.reader.unread < length.steps(epoch):
                self._dispatch_step(batches)
                if self._checks.is_due():
                    self._add_results(self._checks.take())
                    self._save_and_stop_if_due()
                    self._show_progress(bar)
            self._add_results(self.reader.take(leave=0))
        steps = position.step
        return {
            "epoch": epoch,
            "loss": position.loss / steps,
            "accuracy": position.accuracy / steps,
            "learning_rate": self._trainer.updates.learning_rate(),
            "input_wait": position.waited / position.seconds,
            "volumes_per_second": steps * self._options.batch_size / position.seconds,
            "seconds": position.seconds,
        }

    def _dispatch_step(self, batches: Iterator) -> None:
        """Starts a training step on the next batch, and does not wait for its result."""
        began = time.monotonic()
        batch = next(batches)
        note = DispatchedStep(began, time.monotonic(), batch["case"])
        self.reader.add(self._trainer.train_step(batch), note)

    def _add_results(self, readings: list[Reading]) -> None:
        """Adds the results of finished steps to the position, in the order of the steps.

        Raises:
            TrainingDiverged: in all processes, at the first step that was not finite.
        """
        position = self.position
        sums = np.zeros((MOST_UNREAD + 1, 2))  # always the same shape, whatever was read
        for row, reading in zip(sums, readings):
            row += [
                sum(float(getattr(result, name)) for result in reading.values)
                for name in ("loss", "accuracy")
            ]
        for reading, (loss, accuracy) in zip(readings, self._peers.sum(sums)):
            step = reading.note
            if not np.isfinite(loss):
                raise self._diverged(f"the loss became {loss}", step.cases)
            if not reading.values[0].sound:
                raise self._diverged("the gradient became NaN or infinite", step.cases)
            position.step += 1
            position.loss += float(loss)
            position.accuracy += float(accuracy)
            seconds, waited = step.times(reading.finished, self._last_finished)
            position.seconds += seconds
            position.waited += waited
            self._last_finished = reading.finished

    def _show_progress(self, bar: tqdm) -> None:
        if self.position.step > bar.n:
            texts = [f"loss={self.position.loss / self.position.step:.4f}", self._length.end_text()]
            bar.set_postfix_str(", ".join(filter(None, texts)), refresh=False)
            bar.total = max(self._length.steps(self.position.epoch + 1), self.position.step)
            bar.update(self.position.step - bar.n)

    def _validate(self, epoch: int) -> dict[str, float]:
        """Scores and draws the validation folds; returns the `val_` columns of the history."""
        scores = ValidationScores(self._drawn_slices)
        slices = tf.constant(np.maximum(self._drawn_slices, 0), tf.int32)
        self._checks.restart()
        for batch in self.journal.bar(
            self._trainer.eval_batches,
            unit="batch",
            desc=f"validation {epoch}/{self._length.epochs}",
        ):
            self.reader.add(self._trainer.eval_step(batch, slices))
            if self._checks.is_due():
                scores.add(self._checks.take())
                self._save_and_stop_if_due(is_saved=True)
        scores.add(self.reader.take(leave=0))
        means = scores.means(self._peers)
        if not np.isfinite(list(means.values())).all():
            raise self._diverged("the validation loss became NaN or infinite")
        self.journal.draw_predictions(epoch, scores.drawn(self._peers))
        return means

    def _finish_epoch(self, row: dict, redraw: bool) -> None:
        best_before = self.journal.best_epoch
        self.journal.add_epoch(row, redraw)
        best = self.journal.best_epoch
        if best == row["epoch"]:
            self._checkpoints.save_best(row["epoch"], self._trainer.updates.averaged())
        self.position = Position(row["epoch"])
        self._save()
        if self._peers.chief:
            # The state before this one, should it be needed, knows of the best epoch until then.
            self._checkpoints.remove_best_except(best, best_before)

    def _save_and_stop_if_due(self, is_saved: bool = False) -> None:
        """Saves the state if it is time to, and stops the run if that was requested.

        All processes of a run do so at the same check, even if only one of them has a reason.

        Args:
            is_saved: the current state is saved already.
        """
        save_is_due = time.monotonic() >= self._last_save + self._length.save_seconds
        dispatched = self._steps_done + self.reader.unread
        replan_is_due = not is_saved and self._length.replan_is_due(dispatched)
        reason = self._stop.reason
        any_save_is_due, any_replans, any_stops = self._checks.agree(
            save_is_due, replan_is_due, reason
        )
        if any_replans:
            self._add_results(self.reader.take(leave=0))
            self._length.replan(self._steps_done, self._trainer.updates.applied)
        if (any_save_is_due or any_stops) and not is_saved:
            self._save()
        if any_stops:
            raise Stopped(
                f"{reason or 'another worker was stopped'}; the state after step "
                f"{self.position.step} of epoch {self.position.epoch + 1} is saved; run "
                "the same command again to continue",
                self._stop.exit_code,
            )

    def _save(self) -> None:
        """Saves the state, unless a step was not finite or made the weights NaN or infinite.

        The loss of a step is computed before its update, so it cannot tell.
        """
        self._add_results(self.reader.take(leave=0))
        if not self._trainer.weights_are_finite():
            raise self._diverged("weights became NaN or infinite")
        if self._peers.chief:
            self._checkpoints.save_last(self.position, self._length.to_numbers())
        self._last_save, self._has_state = time.monotonic(), True

    def _diverged(self, event: str, cases: Any = None) -> TrainingDiverged:
        position, named = self.position, ""
        if cases is not None:
            named = f" with {', '.join(self._trainer.case_ids_of(cases))}"
        kept, folder = "nothing was saved yet", ""
        if self._has_state:
            kept = f"the last good state is kept in {self._options.model_dir}"
            folder = ", in a new --model_dir"
        return TrainingDiverged(
            f"{event} at step {position.step + 1} of epoch {position.epoch + 1}{named}; {kept}; "
            f"try a lower --learning_rate than {self._options.learning_rate}, or "
            f"--clip_norm=1{folder}"
        )
