"""From a dataset to a SavedModel: the only module that knows both training and serving."""

from importlib import metadata
from pathlib import Path

import tensorflow as tf

from brats_tfrecord import __version__
from brats_tfrecord.errors import InputError
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.training import unet
from brats_tfrecord.training.loop import train

WHOLE_VOXELS = 192**3
"""Images up to this size are served in one piece: some 3 GB of activations with the U-Net."""


def train_and_export(options):
    """Trains, then exports the best epoch's weights.

    The network is built again in float32: half precision is for training hardware, and on a CPU
    float16 is hundreds of times slower.

    Args:
        options: `training.options.TrainOptions`.

    Returns:
        (`training.loop.TrainResult`, path of the SavedModel).
    """
    try:
        result = train(options)
    except tf.errors.DataLossError as error:
        raise InputError(f"--data_dir={options.data_dir}: a shard is damaged "
                         f"({error.message[:120]}); copy or convert the dataset again") from error
    network = unet.build_unet(**result.network, precision="float32")
    network.set_weights(result.weights)
    path = Path(options.model_dir) / "saved_model"
    export_saved_model(network, model_card(result), path)
    return result, path


def model_card(result):
    """The `ModelCard` of a `TrainResult`."""
    dataset = result.manifest
    best = next((row for row in result.history if row["epoch"] == result.best_epoch), {})
    return ModelCard(
        recipe=dataset.recipe,
        modalities=result.modalities,
        label_scheme=dataset.label_scheme.name,
        stride=result.stride,
        whole_voxels=WHOLE_VOXELS,
        dataset_fingerprint=dataset.fingerprint,
        train_case_ids=tuple(result.train_case_ids),
        select_case_ids=tuple(result.select_case_ids),
        training={
            "options": result.options.identity(),
            "epochs": result.options.epochs,
            "best_epoch": result.best_epoch,
            "best": {name: value for name, value in best.items() if value is not None},
            "precision": result.precision,
            "versions": {"brats-tfrecord": __version__,
                         "tensorflow": metadata.version("tensorflow")},
        },
    )
