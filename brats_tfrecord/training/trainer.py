"""Builds network, optimizer and input pipelines from the options. Holds no run state."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from brats_tfrecord import targets as record_targets
from brats_tfrecord.errors import InputError
from brats_tfrecord.pieces import Piece
from brats_tfrecord.records.manifest import Manifest
from brats_tfrecord.training import initial_weights, steps
from brats_tfrecord.training.data import input_pipeline
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.initial_weights import InitialWeights
from brats_tfrecord.training.network import networks
from brats_tfrecord.training.network.network_options import NETWORKS, NetworkOptions
from brats_tfrecord.training.optimization import losses, optimizers, schedules
from brats_tfrecord.training.optimization.planned_share import PlannedShare
from brats_tfrecord.training.optimization.updates import Updates
from brats_tfrecord.training.option_checks import MOST_EPOCHS
from brats_tfrecord.training.train_options import TrainOptions


class Trainer:
    """A network on its devices, with the functions and data that train and score it.

    Attributes:
        options: options of the run.
        dataset: the dataset.
        train_folds: folds to train on.
        strategy: the devices.
        precision: dtype policy of the layers.
        targets: meaning of the network's outputs.
        network_options: architecture of the network.
        network: the network.
        updates: optimizer state.
        initial_text: what was taken of the initial weights, in one line; "" if none were given.
        epoch_steps: batches per epoch.
        patch_shape: (X, Y, Z) of the patches in voxels.
        piece: what the network sees at once in validation and in every prediction.
    """

    def __init__(
        self,
        options: TrainOptions,
        dataset: Manifest,
        train_folds: Sequence[int],
        strategy: tf.distribute.Strategy,
        initial: InitialWeights | None = None,
    ):
        """Builds the network with random weights, or those of `initial`.

        Raises:
            InputError: options that do not fit the dataset, or initial weights that do not fit.
        """
        self.options, self.dataset = options, dataset
        self.train_folds, self.strategy = train_folds, strategy
        self._patches = input_pipeline.Patches(
            options.patch_size,
            options.patches_per_case,
            options.foreground_fraction,
            options.augmentation,
            options.foreground,
        )
        self.patch_shape = self._patches.shape(dataset.crop_shape)
        self.epoch_steps = input_pipeline.steps_per_epoch(
            dataset, train_folds, options.batch_size, options.patches_per_case
        )
        self.precision = devices.resolve_precision(options.precision, strategy)
        self.targets = record_targets.make_targets(options.targets, dataset.label_scheme.classes)
        self.network_options = _network_options(options, self.targets)
        self._require_patches_of_stride()
        self.piece = Piece.of_network(
            NETWORKS[options.network].takes_statistics,
            self.network_options.stride,
            self.patch_shape,
        )
        with strategy.scope():
            self.network = networks.build_network(
                self.network_options,
                precision=self.precision,
                seed=options.seed,
                on_gpu=devices.has_gpus(strategy),
            )
            self.initial_text = self._assign(initial) if initial else ""
            self.updates = make_updates(
                options,
                self.epoch_steps,
                strategy,
                self.network.trainer.trainable_variables,
                loss_scaling=self.precision == "mixed_float16",
            )

    @property
    def emulates_precision(self) -> bool:
        """Whether the devices compute in `precision` without hardware for it."""
        return devices.emulates(self.precision, self.strategy)

    @functools.cached_property
    def train_step(self) -> Callable[[Any], steps.StepResult]:
        """Function (batch) -> result, see `steps.make_train_step`."""
        return steps.make_train_step(
            self.strategy,
            self.network,
            self.targets,
            self._make_loss(self.options.loss),
            self.updates,
            self.options.batch_size,
            self.options.xla,
            self.options.brain_channel,
        )

    @functools.cached_property
    def eval_step(self) -> Callable[[Any, tf.Tensor], steps.EvalResult]:
        """Function (batch, slice of each case) -> result, see `steps.make_eval_step`."""
        # Validation scores every case independently, so Dice of the whole batch does not apply.
        loss = self._make_loss(self.options.loss.removeprefix("batch_"))
        return steps.make_eval_step(
            self.strategy, self.network, self.targets, loss, self.piece, self.options.brain_channel
        )

    def train_batches(
        self, first_epoch: int = 0, first_step: int = 0
    ) -> tf.distribute.DistributedDataset:
        """Makes the distributed batches of the run from a step on, both counted from 0."""
        options = self.options
        return self._distribute(
            input_pipeline.make_train_dataset,
            self.train_folds,
            patches=self._patches,
            batch_size=options.batch_size,
            seed=options.seed,
            first_epoch=first_epoch,
            first_step=first_step,
            epochs=MOST_EPOCHS if options.has_time_budget else options.epochs,
        )

    @functools.cached_property
    def eval_batches(self) -> tf.distribute.DistributedDataset:
        """Distributed batches of the validation folds, one case per replica."""
        return self._distribute(
            input_pipeline.make_eval_dataset,
            self.options.validation_folds,
            batch_size=self.strategy.num_replicas_in_sync,
        )

    @tf.function
    def weights_are_finite(self) -> tf.Tensor:
        """Tells on the device whether all weights are finite: a bool scalar."""
        return tf.reduce_all(
            [tf.reduce_all(tf.math.is_finite(value)) for value in self.network.trainer.weights]
        )

    def case_ids_of(self, cases: Any) -> list[str]:
        """Returns the ids of this process's cases, given the `case` of a training batch."""
        ids = self.dataset.case_ids(self.train_folds)
        parts = self.strategy.experimental_local_results(cases)
        return list(dict.fromkeys(ids[case] for part in parts for case in part.numpy()))

    def _require_patches_of_stride(self):
        stride = self.network_options.stride
        if min(self.patch_shape) < stride:
            raise InputError(
                f"--filters={','.join(map(str, self.options.filter_counts))}: this network halves "
                f"its input to 1/{stride}, but patches are "
                f"{'x'.join(map(str, self.patch_shape))}; give fewer levels or a larger "
                f"--patch_size, at least {stride}"
            )

    def _assign(self, initial):
        return initial_weights.assign(
            initial,
            self.network.model,
            self.options.architecture,
            self.options.input_names,
            self.targets.channel_names,
        )

    def _make_loss(self, name):
        weights = (
            losses.class_weights(self.dataset, self.train_folds, self.targets)
            if self.options.class_weights == "balanced"
            else None
        )
        return losses.deep_supervision(losses.make_loss(name, self.targets, weights))

    def _distribute(self, make_dataset, folds, **arguments):
        options = self.options

        def make_share(context):
            replicas = context.num_replicas_in_sync // context.num_input_pipelines
            return make_dataset(
                self.dataset,
                folds,
                modalities=options.modality_names,
                brain_channel=options.brain_channel,
                share=input_pipeline.BatchShare(
                    context.input_pipeline_id, context.num_input_pipelines, replicas
                ),
                cache=options.cache,
                cache_dir=options.cache_dir,
                **arguments,
            )

        return self.strategy.distribute_datasets_from_function(make_share)


def _network_options(options, targets):
    return NetworkOptions(
        name=options.network,
        channels=len(options.input_names),
        outputs=targets.channels,
        activation=targets.activation,
        filters=options.filter_counts,
        dropout=options.dropout_rates,
        first_stride=options.first_stride,
        coarse_outputs=options.coarse_outputs,
    )


def make_updates(
    options: TrainOptions,
    epoch_steps: int,
    strategy: tf.distribute.Strategy,
    variables: Sequence[tf.Variable],
    *,
    loss_scaling: bool = False,
) -> Updates:
    """Makes the optimizer and its schedules from the options, within the strategy's scope.

    Args:
        options: options of the run.
        epoch_steps: batches per epoch.
        strategy, variables, loss_scaling: as in `Updates`.

    Returns:
        The updates. The last batches of the run are not used if they do not fill an update.

    Raises:
        InputError: --accumulate exceeds the number of batches of the run.
    """
    share, total = None, 0
    warmup = round(options.warmup_epochs * epoch_steps / options.accumulate)
    if options.has_time_budget:
        share = PlannedShare(warmup)
        schedule = schedules.make_planned_schedule(options.schedule, options.learning_rate, share)
    else:
        total = _count_updates(options, epoch_steps)
        schedule = schedules.make_schedule(
            options.schedule, options.learning_rate, total, min(warmup, total - 1)
        )
    return Updates(
        strategy,
        optimizers.make_optimizer(options.optimizer, schedule, options.decay_rate),
        variables,
        schedule=schedule,
        clip_norm=options.clip_norm,
        accumulate=options.accumulate,
        # Only swa depends on the numbers of epochs and updates, and has no time budget.
        averaging=schedules.make_averaging(options.averaging, options.epochs, total),
        loss_scaling=loss_scaling,
        planned_share=share,
    )


def _count_updates(options, epoch_steps):
    batches = options.epochs * epoch_steps
    total = batches // options.accumulate
    if not total:
        raise InputError(
            f"--accumulate={options.accumulate}: the whole run has {batches} batches, too few "
            f"for one update; give at most {batches}, or more --epochs"
        )
    return total


@dataclass(frozen=True)
class TrainResult:
    """The weights of a run's best epoch, with everything needed to export and describe them.

    Attributes:
        weights: float32 arrays, in the order of `Network.model.get_weights()`.
        network: options that build the network of these weights.
        piece: what the network sees at once.
        modalities: names of the modalities among the input channels, in order.
        targets: meaning of the output channels, see `targets.make_targets`.
        history: one dict per epoch, see `history.COLUMNS`.
        best_epoch: epoch of these weights, counted from 1.
        train_case_ids: cases that the network was trained on.
        select_case_ids: cases that selected the best epoch.
        precision: dtype policy that the network was trained with.
        options: options of the run.
        manifest: manifest of the dataset.
        tuning_ends: `time.monotonic()` at which tuning the post-processing has to stop, so that
            the run ends within its time budget; None if it may take as long as it does.
        used_seconds: function that returns how much of the time budget was used; None if the run
            has no budget, or was finished before.
    """

    weights: list[np.ndarray]
    network: NetworkOptions
    piece: Piece
    modalities: tuple[str, ...]
    targets: str
    history: list[dict]
    best_epoch: int
    train_case_ids: list[str]
    select_case_ids: list[str]
    precision: str
    options: TrainOptions
    manifest: Manifest
    tuning_ends: float | None = None
    used_seconds: Callable[[], float] | None = None


def make_result(
    trainer: Trainer, weights: list[np.ndarray], history: list[dict], best_epoch: int
) -> TrainResult:
    """Combines the weights of the best epoch with the description of its run."""
    options, dataset = trainer.options, trainer.dataset
    return TrainResult(
        weights=weights,
        network=trainer.network_options,
        piece=trainer.piece,
        modalities=options.modality_names,
        targets=options.targets,
        history=history,
        best_epoch=best_epoch,
        train_case_ids=dataset.case_ids(trainer.train_folds),
        select_case_ids=dataset.case_ids(options.validation_folds),
        precision=trainer.precision,
        options=options,
        manifest=dataset,
    )
