"""The outer loop: epochs, validation, checkpoints, progress. `steps` holds the inner one."""

import time
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from brats_tfrecord.errors import InputError, TrainingDiverged
from brats_tfrecord.records import manifest as manifests
from brats_tfrecord.records import manifest_check
from brats_tfrecord.training import devices, input_pipeline, optimizers, run_folder, steps, unet
from brats_tfrecord.training.history import DICE_COLUMNS, History
from brats_tfrecord.training.options import TrainOptions

__all__ = ["TrainOptions", "TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """What training leaves for the exporter.

    Attributes:
        weights: float32 arrays of the best epoch, in the order of `model.get_weights()`.
        network: keyword arguments of `unet.build_unet` that build the network they fit, with
            open spatial extents.
        stride: what the extents of the network's input must be multiples of.
        modalities: names of its input channels.
        classes: channels of its output.
        history: one dict an epoch, see `history.COLUMNS`.
        best_epoch: whose weights these are, counted from 1.
        train_case_ids, select_case_ids: cases that trained it, and that chose the epoch.
        precision: dtype policy it was trained with.
        options: the `TrainOptions`.
        manifest: the dataset's.
    """

    weights: list[np.ndarray]
    network: dict
    stride: int
    modalities: tuple[str, ...]
    classes: int
    history: list[dict]
    best_epoch: int
    train_case_ids: list[str]
    select_case_ids: list[str]
    precision: str
    options: TrainOptions
    manifest: manifests.Manifest


def train(options):
    """Trains a network, or goes on where an earlier run in `options.model_dir` stopped.

    Args:
        options: `TrainOptions`.

    Returns:
        `TrainResult`; of a finished run without training any more.

    Raises:
        InputError: flags that do not fit the dataset, the devices or the used `model_dir`.
        TrainingDiverged: a loss or weight that is not finite; the last good state is kept.
    """
    dataset = manifests.load(options.data_dir)
    manifest_check.require_sound(options.data_dir)
    train_folds = _train_folds(options, dataset)
    strategy = devices.make_strategy(options.gpus, options.virtual_devices)
    devices.per_replica_batch(options.batch_size, strategy)
    run_folder.claim(options, dataset)
    run = _Run(options, dataset, train_folds, strategy)
    if run.finished_epochs >= options.epochs:
        tqdm.write(f"{options.model_dir}: its {run.finished_epochs} epochs are finished; nothing "
                   "left to train")
    else:
        run.go_on()
    return run.result()


class _Run:
    """One session of a run: the network, its state on disk, and the epochs to go."""

    def __init__(self, options, dataset, train_folds, strategy):
        self.options, self.dataset = options, dataset
        self.train_folds, self.strategy = train_folds, strategy
        self.epoch_steps = input_pipeline.steps_per_epoch(
            dataset, train_folds, options.batch_size)
        self.precision = devices.resolve_precision(options.precision, strategy)
        self.network = {
            "input_shape": (None, None, None, len(options.modality_names)),
            "classes": dataset.label_scheme.classes,
            "filters": options.filter_counts,
            "dropout": options.dropout_rates,
        }
        with strategy.scope():
            self.model = unet.build_unet(
                **self.network, precision=self.precision, seed=options.seed)
            self.optimizer = optimizers.make_optimizer(
                options.optimizer,
                optimizers.make_schedule(options.schedule, options.learning_rate,
                                         options.epochs * self.epoch_steps),
                loss_scaling=self.precision == "mixed_float16")
            optimizers.create_slots(self.optimizer, self.model.trainable_variables)
        self.checkpoints = run_folder.Checkpoints(options.model_dir, self.model, self.optimizer)
        self.finished_epochs = self.checkpoints.restore_last()
        self.history = History(options.model_dir, self.finished_epochs)

    def go_on(self):
        """Runs the epochs that are left."""
        options = self.options
        stride = unet.stride(options.filter_counts)
        train_step = steps.make_train_step(
            self.strategy, self.model, self.optimizer, options.loss, options.batch_size, stride)
        eval_step = steps.make_eval_step(self.strategy, self.model, options.loss, stride)
        batches = iter(self._train_batches())
        self._announce()
        began = time.monotonic()
        first = self.finished_epochs + 1
        for epoch in range(first, options.epochs + 1):
            row = self._epoch(epoch, batches, train_step)
            # Validation and drawing take their time: a run of many short epochs spaces them out.
            due = epoch % options.validate_every == 0 or epoch == options.epochs
            if due and options.validation_folds:
                row.update(self._validate(eval_step, epoch))
            self._check_weights(epoch)
            self.history.add(row)
            if due:
                self.history.draw()
            self.checkpoints.save(epoch, self.history.best_epoch)
            self.finished_epochs = epoch
            each = (time.monotonic() - began) / (epoch - first + 1)
            tqdm.write(_line(row, options.epochs, each * (options.epochs - epoch)))

    def result(self):
        """The best epoch's weights and what the exporter must know of them."""
        best_epoch = self.history.best_epoch or self.finished_epochs
        if self.history.best_epoch:
            self.checkpoints.restore_best(best_epoch)
        options, dataset = self.options, self.dataset
        return TrainResult(
            weights=[np.asarray(array, np.float32) for array in self.model.get_weights()],
            network=self.network,
            stride=unet.stride(options.filter_counts),
            modalities=options.modality_names,
            classes=dataset.label_scheme.classes,
            history=self.history.rows,
            best_epoch=best_epoch,
            train_case_ids=dataset.case_ids(self.train_folds),
            select_case_ids=dataset.case_ids(options.validation_folds),
            precision=self.precision,
            options=options,
            manifest=dataset,
        )

    def _epoch(self, epoch, batches, train_step):
        """Trains for one epoch; returns its part of the history row."""
        options, began = self.options, time.monotonic()
        losses, accuracies = [], []
        bar = tqdm(total=self.epoch_steps, desc=f"epoch {epoch}/{options.epochs}", unit="step",
                   leave=False, disable=None, dynamic_ncols=True)
        with bar:
            for step in range(1, self.epoch_steps + 1):
                loss, accuracy = (float(value) for value in train_step(next(batches)))
                if not np.isfinite(loss):
                    raise self._diverged(f"the loss became {loss}", epoch, step)
                losses.append(loss)
                accuracies.append(accuracy)
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                bar.update()
        seconds = time.monotonic() - began
        return {
            "epoch": epoch,
            "loss": float(np.mean(losses)),
            "accuracy": float(np.mean(accuracies)),
            "volumes_per_second": self.epoch_steps * options.batch_size / seconds,
            "seconds": seconds,
        }

    def _validate(self, eval_step, epoch):
        """Scores the validation fold on whole crops; returns its part of the history row."""
        dataset = input_pipeline.make_eval_dataset(
            self.dataset, self.options.validation_folds, modalities=self.options.modality_names,
            batch_size=self.strategy.num_replicas_in_sync)
        bar = tqdm(self.strategy.experimental_distribute_dataset(dataset), leave=False,
                   desc=f"validation {epoch}/{self.options.epochs}", unit="batch", disable=None)
        batches = [eval_step(batch) for batch in bar]
        scores = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        counted = scores.pop("weight") > 0
        means = {f"val_{name}": float(values[counted].mean(dtype=np.float64))
                 for name, values in scores.items()}
        means["val_dice_mean"] = float(np.mean([means[name] for name in DICE_COLUMNS]))
        return means

    def _check_weights(self, epoch):
        """The last step's loss is taken before its update; only the weights tell of that."""
        if not all(np.isfinite(array).all() for array in self.model.get_weights()):
            raise self._diverged("weights became NaN or infinite", epoch, None)

    def _diverged(self, what, epoch, step):
        total = (epoch - 1) * self.epoch_steps + (step or self.epoch_steps)
        kept = (f"the state after epoch {self.finished_epochs} is kept in "
                f"{self.options.model_dir}/checkpoints" if self.finished_epochs
                else "no epoch was finished")
        return TrainingDiverged(f"{what} at step {total} (epoch {epoch}); {kept}; try a lower "
                                f"--learning_rate than {self.options.learning_rate}")

    def _train_batches(self):
        options = self.options
        return self.strategy.experimental_distribute_dataset(input_pipeline.make_train_dataset(
            self.dataset,
            self.train_folds,
            modalities=options.modality_names,
            patch_size=options.patch_size,
            foreground_fraction=options.foreground_fraction,
            batch_size=options.batch_size,
            seed=options.seed,
            first_epoch=self.finished_epochs,
            epochs=options.epochs,
        ))

    def _announce(self):
        options = self.options
        shape = input_pipeline.patch_shape(self.dataset.crop_shape, options.patch_size)
        went_on = f", after {self.finished_epochs} finished epochs" if self.finished_epochs else ""
        tqdm.write(
            f"training on {len(self.dataset.case_ids(self.train_folds))} cases, validating on "
            f"{len(self.dataset.case_ids(options.validation_folds))}: patches "
            f"{'x'.join(map(str, shape))} of {options.modalities}, batch {options.batch_size} "
            f"over {self.strategy.num_replicas_in_sync} replica(s), {self.precision}{went_on}")


def _train_folds(options, dataset):
    """Folds left to train on; raises `InputError` where flags and dataset do not fit."""
    for name, folds in (("validation_fold", options.validation_folds),
                        ("test_fold", options.test_folds)):
        for fold in folds:
            if not dataset.case_ids([fold]):
                there = sorted({case.fold for case in dataset.cases if case.fold is not None})
                raise InputError(f"--{name}={fold}: {dataset.root} has no labelled case in that "
                                 f"fold; expected one of {', '.join(map(str, there))} or none")
    kept_out = {*options.validation_folds, *options.test_folds}
    train_folds = [fold for fold in range(dataset.folds) if fold not in kept_out]
    if not dataset.case_ids(train_folds):
        raise InputError(f"--data_dir={dataset.root}: no labelled case is left to train on; give "
                         "--validation_fold=none --test_fold=none, or convert with more --folds")
    return train_folds


def _line(row, epochs, seconds_left):
    """One epoch in one line."""
    parts = [f"epoch {row['epoch']}/{epochs}", f"loss {row['loss']:.4f}",
             f"accuracy {row['accuracy']:.4f}"]
    if "val_loss" in row:
        parts.append(f"validation {row['val_loss']:.4f} {row['val_accuracy']:.4f} Dice "
                     + " ".join(f"{name[-2:]} {row[name]:.3f}" for name in DICE_COLUMNS))
    minutes, seconds = divmod(round(seconds_left), 60)
    hours, minutes = divmod(minutes, 60)
    parts += [f"{row['volumes_per_second']:.2f} volumes/s",
              f"ETA {hours}:{minutes:02d}:{seconds:02d}"]
    return "  ".join(parts)
