"""The training loop: epochs, validation, checkpoints and stops. `steps` has the single steps."""

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from brats_tfrecord import files
from brats_tfrecord.errors import Stopped, TrainingDiverged
from brats_tfrecord.records import manifest as manifests
from brats_tfrecord.records import verify_manifest
from brats_tfrecord.stopping import StopRequest
from brats_tfrecord.training import cross_validation, run_folder, tensorflow_errors
from brats_tfrecord.training.checkpoints import Checkpoints, Position
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.distribution.peers import Peers
from brats_tfrecord.training.journal import Journal, NullJournal, epoch_line, opening_line
from brats_tfrecord.training.logbook.history import DICE_COLUMNS
from brats_tfrecord.training.train_options import TrainOptions
from brats_tfrecord.training.trainer import Trainer, TrainResult, make_result


def train(options: TrainOptions) -> TrainResult | None:
    """Trains a network, or resumes the run in `options.model_dir`.

    A finished run is not trained again; its result is read from the folder.

    Args:
        options: options of the run.

    Returns:
        The result; None in processes of a multiworker run that are not the chief.

    Raises:
        InputError: flags that do not fit the dataset, the devices or the run in `model_dir`.
        TrainingDiverged: a loss, gradient or weight is not finite; the last good state is kept.
        Stopped: by a signal or the time limit, after the state was saved; or because the disk is
            full or another process of the run was lost.
    """
    # `cleanup` is left after errors were explained: the run card records the explanation.
    with contextlib.ExitStack() as cleanup, tensorflow_errors.explained(options):
        stop = cleanup.enter_context(StopRequest(options.time_limit_minutes).listening())
        dataset, train_folds, strategy = prepare(options, stop)
        peers = Peers(strategy)
        cleanup.enter_context(run_folder.held(options, peers))
        precision = devices.resolve_precision(options.precision, strategy)
        run_folder.claim_together(options, dataset, precision, peers)
        run = _Run(Trainer(options, dataset, train_folds, strategy), stop, peers)
        if run.is_finished:
            run.journal.say(
                f"{options.model_dir}: all {run.position.epoch} epochs are finished; there is "
                "nothing left to train"
            )
        else:
            cleanup.enter_context(run.journal.session())
            cleanup.enter_context(run_folder.input_errors_shared(options, peers))
            run.train()
        return run.result() if peers.chief else None


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


class _Run:
    """One session of a run: the trainer, the saved state, and the loop over epochs.

    In a multiworker run every process has its own and takes the same steps; only the chief writes
    files.
    """

    def __init__(self, trainer: Trainer, stop: StopRequest, peers: Peers) -> None:
        """Restores the state that earlier sessions have saved."""
        self._trainer, self._options = trainer, trainer.options
        self._stop, self._peers = stop, peers
        self._checkpoints = Checkpoints(
            self._options.model_dir, trainer.network.trainer, trainer.updates
        )
        with peers.together():
            self.position = self._checkpoints.restore_last()
            self.journal = Journal(trainer, self.position.epoch) if peers.chief else NullJournal()
        # This comparison also keeps the chief from writing before all processes have read.
        peers.require_same({"the checkpoint": (self.position.epoch, self.position.step)})
        for notice in (*self._checkpoints.notices, *self.journal.notices):
            self.journal.say(notice)
        self._last_save = time.monotonic()
        self._has_state = self.position != Position()

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done."""
        return self.position.epoch >= self._options.epochs

    def train(self) -> None:
        """Trains until the last epoch is finished."""
        options, first = self._options, self.position.epoch
        batches = iter(self._trainer.train_batches(first, self.position.step))
        self.journal.say(opening_line(self._trainer, self.position))
        began = time.monotonic()
        for epoch in range(first + 1, options.epochs + 1):
            row = self._train_epoch(epoch, batches)
            # Validation and drawing take time, so runs of many short epochs do both less often.
            is_due = epoch % options.validate_every == 0 or epoch == options.epochs
            if is_due and options.validation_folds:
                self._save()  # a stop during validation then loses nothing
                with self._trainer.updates.averaged():
                    row.update(self._validate(epoch))
                self.journal.draw_predictions(epoch)
            self._finish_epoch(row, redraw=is_due)
            seconds_left = (time.monotonic() - began) / (epoch - first) * (options.epochs - epoch)
            self.journal.say(epoch_line(row, options.epochs, seconds_left))

    def result(self) -> TrainResult:
        """Combines the weights of the best epoch with their description."""
        best_epoch = self.journal.best_epoch or self.position.epoch
        return make_result(self._trainer, self._best_weights(), self.journal.rows, best_epoch)

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
        position, steps = self.position, self._trainer.epoch_steps
        with self.journal.bar(
            total=steps,
            initial=position.step,
            unit="step",
            desc=f"epoch {epoch}/{self._options.epochs}",
        ) as bar:
            while position.step < steps:
                self._train_step(batches)
                bar.set_postfix(loss=f"{position.loss / position.step:.4f}", refresh=False)
                bar.update()
                self._save_and_stop_if_due()
        return {
            "epoch": epoch,
            "loss": position.loss / steps,
            "accuracy": position.accuracy / steps,
            "learning_rate": self._trainer.updates.learning_rate(),
            "input_wait": position.waited / position.seconds,
            "volumes_per_second": steps * self._options.batch_size / position.seconds,
            "seconds": position.seconds,
        }

    def _train_step(self, batches: Iterator) -> None:
        position, began = self.position, time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - began
        learned = self._trainer.train_step(batch)
        loss, accuracy = float(learned.loss), float(learned.accuracy)
        if not np.isfinite(loss):
            raise self._diverged(f"the loss became {loss}", batch)
        if not learned.sound:
            raise self._diverged("the gradient became NaN or infinite", batch)
        position.step += 1
        position.loss += loss
        position.accuracy += accuracy
        position.waited += waited
        position.seconds += time.monotonic() - began

    def _validate(self, epoch: int) -> dict[str, float]:
        """Scores the validation folds on whole crops; returns the `val_` columns of the history."""
        batches = []
        for batch in self.journal.bar(
            self._trainer.eval_batches,
            unit="batch",
            desc=f"validation {epoch}/{self._options.epochs}",
        ):
            scores, cases, classes = self._trainer.eval_step(batch)
            batches.append(scores)
            self.journal.add_predictions(cases, classes)
            self._save_and_stop_if_due(is_saved=True)
        scores = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        is_case = scores.pop("weight") > 0  # the rest pads the last batch
        means = {
            f"val_{name}": float(values[is_case].mean(dtype=np.float64))
            for name, values in scores.items()
        }
        means["val_dice_mean"] = float(np.mean([means[name] for name in DICE_COLUMNS]))
        if not np.isfinite(list(means.values())).all():
            raise self._diverged("the validation loss became NaN or infinite")
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

        All processes of a run do so after the same step, even if only one of them has a reason.

        Args:
            is_saved: the current state is saved already.
        """
        save_is_due = time.monotonic() >= self._last_save + 60 * self._options.checkpoint_minutes
        reason = self._stop.reason
        any_save_is_due, any_stops = self._peers.anyone(save_is_due, reason)
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
        """Saves the state, unless the last update made the weights NaN or infinite.

        The loss of a step is computed before its update, so it cannot tell.
        """
        weights = self._trainer.network.trainer.get_weights()
        if not all(np.isfinite(array).all() for array in weights):
            raise self._diverged("weights became NaN or infinite")
        if self._peers.chief:
            self._checkpoints.save_last(self.position)
        self._last_save, self._has_state = time.monotonic(), True

    def _diverged(self, event: str, batch: dict | None = None) -> TrainingDiverged:
        position = self.position
        cases = f" with {', '.join(self._trainer.case_ids_of(batch))}" if batch else ""
        kept, folder = "nothing was saved yet", ""
        if self._has_state:
            kept = f"the last good state is kept in {self._options.model_dir}"
            folder = ", in a new --model_dir"
        return TrainingDiverged(
            f"{event} at step {position.step + 1} of epoch {position.epoch + 1}{cases}; {kept}; "
            f"try a lower --learning_rate than {self._options.learning_rate}, or "
            f"--clip_norm=1{folder}"
        )
