"""The outer loop: epochs, validation, checkpoints, stops. `steps` holds the inner one."""

import contextlib
import time

import numpy as np

from brats_tfrecord import files
from brats_tfrecord.errors import Stopped, TrainingDiverged
from brats_tfrecord.records import manifest as manifests
from brats_tfrecord.records import manifest_check
from brats_tfrecord.stopping import StopRequest
from brats_tfrecord.training import run_folder
from brats_tfrecord.training.checkpoints import Checkpoints, Position
from brats_tfrecord.training.data import folds
from brats_tfrecord.training.distribution import devices, resources
from brats_tfrecord.training.distribution.peers import Peers
from brats_tfrecord.training.logbook import progress_lines
from brats_tfrecord.training.logbook.history import DICE_COLUMNS
from brats_tfrecord.training.logbook.journal import Journal, NullJournal
from brats_tfrecord.training.result import make_result
from brats_tfrecord.training.trainer import Trainer


def train(options):
    """Trains a network, or goes on where an earlier run in `options.model_dir` stopped.

    Args:
        options: `TrainOptions`.

    Returns:
        `TrainResult`; of a finished run without training any more. None in the processes of a
        multiworker run that are not the chief.

    Raises:
        InputError: flags that do not fit the dataset, the devices or the used `model_dir`.
        TrainingDiverged: a loss, gradient or weight that is not finite; the last good state is
            kept.
        Stopped: by a signal or the time limit, after the state was saved; or by a lost peer.
    """
    with StopRequest(options.time_limit_minutes).listening() as stop:
        dataset, train_folds, strategy = prepare(options, stop)
        peers = Peers(strategy)
        with peers.stopping_without_peer(), run_folder.held(options, peers):
            run_folder.claim_together(options, dataset, peers)
            run = _Run(Trainer(options, dataset, train_folds, strategy), stop, peers)
            run.go_on()
            return run.result() if peers.chief else None


def prepare(options, stop=None):
    """Checks flags, dataset and devices against each other.

    Args:
        options: `TrainOptions`.
        stop: `stopping.StopRequest` to look at while waiting for peers, or None.

    Returns:
        (`records.manifest.Manifest`, folds to train on, `tf.distribute.Strategy`).

    Raises:
        InputError, Stopped: as `train`.
    """
    if options.cache_dir:
        files.require_writable("--cache_dir", options.cache_dir)
    dataset = manifests.load(options.data_dir)
    manifest_check.require_sound(options.data_dir)
    train_folds = folds.train_folds(options, dataset)
    strategy = devices.make_strategy(
        options.gpus, options.virtual_devices, options.strategy, options.peer_wait_minutes, stop
    )
    devices.per_replica_batch(options.batch_size, strategy)
    return dataset, train_folds, strategy


class _Run:
    """One session of a run: the trainer, its state on disk, and the epochs to go.

    In a multiworker run every process has one, and all do the same; the chief alone writes.
    """

    def __init__(self, trainer, stop, peers):
        self.trainer, self.options = trainer, trainer.options
        self._stop, self._peers = stop, peers
        self.checkpoints = Checkpoints(
            self.options.model_dir, trainer.network.trainer, trainer.updates
        )
        with peers.together():
            self.position = self.checkpoints.restore_last()
            self.journal = Journal(trainer, self.position.epoch) if peers.chief else NullJournal()
        # The chief writes nothing before all have read.
        peers.require_same(
            {
                "the checkpoint": (self.position.epoch, self.position.step),
                "what --precision=auto means": trainer.precision,
            }
        )
        self._saved, self._has_state = time.monotonic(), self.position != Position()

    def go_on(self):
        """Runs the epochs that are left, if any."""
        if self.position.epoch >= self.options.epochs:
            self.journal.say(
                f"{self.options.model_dir}: its {self.position.epoch} epochs are "
                "finished; nothing left to train"
            )
            return
        with (
            self.journal.session(),
            resources.named(self.options),
            self._peers.stopping_without_peer(),
        ):
            self._train()

    def result(self):
        """The best epoch's weights and what the exporter must know of them."""
        best_epoch = self.journal.best_epoch or self.position.epoch
        return make_result(self.trainer, self._weights(), self.journal.rows, best_epoch)

    def _train(self):
        options, first = self.options, self.position.epoch
        batches = iter(self.trainer.train_batches(first, self.position.step))
        self.journal.say(progress_lines.opening_line(self.trainer, self.position))
        began = time.monotonic()
        for epoch in range(first + 1, options.epochs + 1):
            row = self._epoch(epoch, batches)
            # Validation and drawing take their time: a run of many short epochs spaces them out.
            due = epoch % options.validate_every == 0 or epoch == options.epochs
            if due and options.validation_folds:
                self._save()  # a stop during validation then costs nothing
                with self.trainer.updates.averaged():
                    row.update(self._validate(epoch))
                self.journal.validated(epoch)
            self._finish_epoch(row, due)
            left = (time.monotonic() - began) / (epoch - first) * (options.epochs - epoch)
            self.journal.say(progress_lines.epoch_line(row, options.epochs, left))

    def _weights(self):
        """Those of the best epoch, or else the last; averaged, if the run averages."""
        if self.journal.best_epoch:
            self.checkpoints.restore_best(self.journal.best_epoch)
            context = contextlib.nullcontext()
        else:
            context = self.trainer.updates.averaged()
        with context:
            return [
                np.asarray(array, np.float32) for array in self.trainer.network.model.get_weights()
            ]

    def _epoch(self, epoch, batches):
        """Makes the steps that are left of an epoch; returns its part of the history row."""
        position, steps = self.position, self.trainer.epoch_steps
        with self.journal.bar(
            total=steps,
            initial=position.step,
            unit="step",
            desc=f"epoch {epoch}/{self.options.epochs}",
        ) as bar:
            while position.step < steps:
                self._step(batches)
                bar.set_postfix(loss=f"{position.loss / position.step:.4f}", refresh=False)
                bar.update()
                self._heed_clock()
        return {
            "epoch": epoch,
            "loss": position.loss / steps,
            "accuracy": position.accuracy / steps,
            "learning_rate": self.trainer.updates.learning_rate(),
            "input_wait": position.waited / position.seconds,
            "volumes_per_second": steps * self.options.batch_size / position.seconds,
            "seconds": position.seconds,
        }

    def _step(self, batches):
        position, began = self.position, time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - began
        learned = self.trainer.train_step(batch)
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

    def _validate(self, epoch):
        """Scores the validation fold on whole crops; returns its part of the history row."""
        batches = []
        for batch in self.journal.bar(
            self.trainer.eval_batches,
            unit="batch",
            desc=f"validation {epoch}/{self.options.epochs}",
        ):
            scores, cases, classes = self.trainer.eval_step(batch)
            batches.append(scores)
            self.journal.predicted(cases, classes)
            self._heed_clock(saved=True)
        scores = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        counted = scores.pop("weight") > 0
        means = {
            f"val_{name}": float(values[counted].mean(dtype=np.float64))
            for name, values in scores.items()
        }
        means["val_dice_mean"] = float(np.mean([means[name] for name in DICE_COLUMNS]))
        if not np.isfinite(list(means.values())).all():
            raise self._diverged("the validation loss became NaN or infinite")
        return means

    def _finish_epoch(self, row, draw):
        self.journal.add(row, draw)
        best = self.journal.best_epoch
        if best == row["epoch"]:
            self.checkpoints.save_best(best, self.trainer.updates.averaged())
        self.position = Position(row["epoch"])
        self._save()
        if self._peers.chief:
            self.checkpoints.forget_best_but(best)

    def _heed_clock(self, saved=False):
        """Between two steps: saves if it is time, and leaves if that was asked for.

        All processes of a run do so after the same step, whoever's clock or signal it was.
        """
        late = time.monotonic() >= self._saved + 60 * self.options.checkpoint_minutes
        reason = self._stop.reason
        late, told = self._peers.anyone(late, reason)
        if (late or told) and not saved:
            self._save()
        if told:
            raise Stopped(
                f"{reason or 'a peer was told to stop'}; the state after step "
                f"{self.position.step} of epoch {self.position.epoch + 1} is saved; run "
                "the same command again to go on",
                self._stop.exit_code,
            )

    def _save(self):
        """Saves the state; the last step's loss was taken before its update, so look at that."""
        weights = self.trainer.network.trainer.get_weights()
        if not all(np.isfinite(array).all() for array in weights):
            raise self._diverged("weights became NaN or infinite")
        if self._peers.chief:
            self.checkpoints.save_last(self.position)
        self._saved, self._has_state = time.monotonic(), True

    def _diverged(self, what, batch=None):
        position = self.position
        cases = f" with {', '.join(self.trainer.case_ids_of(batch))}" if batch else ""
        kept, where = "nothing was saved yet", ""
        if self._has_state:
            kept = f"the last good state is kept in {self.options.model_dir}"
            where = ", in a new --model_dir"
        return TrainingDiverged(
            f"{what} at step {position.step + 1} of epoch {position.epoch + 1}{cases}; {kept}; try "
            f"a lower --learning_rate than {self.options.learning_rate}, or --clip_norm=1{where}"
        )
