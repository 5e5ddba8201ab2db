"""All that learns, made of options and a dataset; knows nothing of folders and epochs gone by."""

import functools

from brats_tfrecord import targets as record_targets
from brats_tfrecord.errors import InputError
from brats_tfrecord.training import steps
from brats_tfrecord.training.data import augment, input_pipeline
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.network import networks
from brats_tfrecord.training.network.network_options import NetworkOptions
from brats_tfrecord.training.optimization import losses
from brats_tfrecord.training.optimization.updates import make_updates


class Trainer:
    """A network on its devices, with what it takes to train and to score it.

    Attributes:
        options: `TrainOptions`.
        dataset: `records.manifest.Manifest`.
        train_folds: folds to train on.
        strategy: `tf.distribute.Strategy`.
        precision: dtype policy of the layers.
        targets: `targets.Targets` of the network's outputs.
        network_options: `network_options.NetworkOptions`, which build the network again.
        network: `networks.Network`.
        updates: `updates.Updates`.
        epoch_steps: batches an epoch.
        patch_shape: (X, Y, Z) of the patches in voxels.
    """

    def __init__(self, options, dataset, train_folds, strategy):
        """Builds it with random weights.

        Raises:
            InputError: flags that do not fit the dataset or the devices.
        """
        self.options, self.dataset = options, dataset
        self.train_folds, self.strategy = train_folds, strategy
        devices.per_replica_batch(options.batch_size, strategy)
        self.epoch_steps = input_pipeline.steps_per_epoch(
            dataset, train_folds, options.batch_size, options.patches_per_case
        )
        self.patch_shape = input_pipeline.patch_shape(dataset.crop_shape, options.patch_size)
        self.precision = devices.resolve_precision(options.precision, strategy)
        self.targets = record_targets.make_targets(options.targets, dataset.label_scheme.classes)
        self.network_options = NetworkOptions(
            name=options.network,
            channels=len(options.modality_names),
            outputs=self.targets.channels,
            activation=self.targets.activation,
            filters=options.filter_counts,
            dropout=options.dropout_rates,
            deep_supervision=options.supervises_deeply,
        )
        self._require_stride_below_patch()
        with strategy.scope():
            self.network = networks.build_network(
                self.network_options, precision=self.precision, seed=options.seed
            )
            self.updates = make_updates(
                options,
                self.epoch_steps,
                strategy,
                self.network.trainer.trainable_variables,
                loss_scaling=self.precision == "mixed_float16",
            )

    def _require_stride_below_patch(self):
        stride = self.network_options.stride
        if min(self.patch_shape) < stride:
            raise InputError(
                f"--filters={','.join(map(str, self.options.filter_counts))}: this network halves "
                f"its input to 1/{stride}, but patches are "
                f"{'x'.join(map(str, self.patch_shape))}; give fewer levels or a larger "
                f"--patch_size, at least {stride}"
            )

    @property
    def emulates_precision(self):
        """Whether a CPU trains that does not have `precision` in hardware."""
        return devices.emulates(self.precision, self.strategy)

    @functools.cached_property
    def train_step(self):
        """Function (batch) -> `steps.StepResult`."""
        return steps.make_train_step(
            self.strategy,
            self.network,
            self.targets,
            self._loss(self.options.loss),
            self.updates,
            self.options.batch_size,
            self.options.xla,
        )

    @functools.cached_property
    def eval_step(self):
        """Function (batch) -> dict of arrays, see `steps.make_eval_step`."""
        # Dice of a batch is for training: cases are scored one by one.
        loss = self._loss(self.options.loss.removeprefix("batch_"))
        return steps.make_eval_step(self.strategy, self.network, self.targets, loss)

    def train_batches(self, first_epoch=0, first_step=0):
        """Distributed batches of the whole run from that step on, both counted from 0."""
        options = self.options
        return self._distribute(
            lambda share: input_pipeline.make_train_dataset(
                self.dataset,
                self.train_folds,
                modalities=options.modality_names,
                patch_size=options.patch_size,
                foreground_fraction=options.foreground_fraction,
                patches_per_case=options.patches_per_case,
                augmentation=augment.LEVELS[options.augment],
                batch_size=options.batch_size,
                seed=options.seed,
                first_epoch=first_epoch,
                first_step=first_step,
                epochs=options.epochs,
                share=share,
                cache=options.cache,
                cache_dir=options.cache_dir,
            )
        )

    @functools.cached_property
    def eval_batches(self):
        """Distributed batches of the validation folds, a case for every replica."""
        options = self.options
        return self._distribute(
            lambda share: input_pipeline.make_eval_dataset(
                self.dataset,
                options.validation_folds,
                modalities=options.modality_names,
                batch_size=self.strategy.num_replicas_in_sync,
                share=share,
                cache=options.cache,
                cache_dir=options.cache_dir,
            )
        )

    def case_ids_of(self, batch):
        """Ids of the cases in a distributed training batch, as far as this process holds it."""
        ids = self.dataset.case_ids(self.train_folds)
        parts = self.strategy.experimental_local_results(batch["case"])
        return list(dict.fromkeys(ids[case] for part in parts for case in part.numpy()))

    def _loss(self, name):
        weights = (
            losses.class_weights(self.dataset, self.train_folds, self.targets)
            if self.options.class_weights == "balanced"
            else None
        )
        return losses.deep_supervision(losses.make_loss(name, self.targets, weights))

    def _distribute(self, make_dataset):
        def of(context):
            replicas = context.num_replicas_in_sync // context.num_input_pipelines
            return make_dataset(
                input_pipeline.Share(
                    context.input_pipeline_id, context.num_input_pipelines, replicas
                )
            )

        return self.strategy.distribute_datasets_from_function(of)
