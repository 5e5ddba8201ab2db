"""From a dataset to a SavedModel: the only module that knows both training and serving."""

import contextlib
import errno
import re
from importlib import metadata
from pathlib import Path

import tensorflow as tf

from brats_tfrecord import __version__, files
from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.records import manifest as manifests
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.training import cross_validation, folds, networks, run_folder
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
        (`training.loop.TrainResult`, path of the SavedModel); (None, None) in the processes of a
        multiworker run that are not the chief.
    """
    with _resources_named(options):
        result = train(options)
        if result is None:
            return None, None
        network = networks.build_network(result.network).model
        network.set_weights(result.weights)
        path = Path(options.model_dir) / "saved_model"
        export_saved_model(network, model_card(result), path)
        return result, path


@contextlib.contextmanager
def _resources_named(options):
    """Says in a user's terms what TensorFlow found wrong with data, disk or memory."""
    full = Stopped(f"--model_dir={options.model_dir}: the disk is full; make room and run the same "
                   "command again to go on from the last saved state")
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full from error
        raise
    except tf.errors.OpError as error:
        # What the loader's threads raise comes back within TensorFlow's own words.
        found = re.search(r"InputError: (.*)", error.message)
        if found:
            raise InputError(f"--data_dir={options.data_dir}: {found[1]}; what was trained until "
                             "the last saved state is kept") from error
        if "No space left" in error.message or "Disk quota" in error.message:
            raise full from error
        if isinstance(error, tf.errors.ResourceExhaustedError):
            raise InputError("out of memory on a device; give a smaller --batch_size (with "
                             "--accumulate), a smaller --patch_size or fewer --filters") from error
        raise


def cross_validate(options):
    """Trains and exports a run for each fold, all but the test fold, then gathers their table.

    Each run is in a folder of its own, `fold0`, `fold1`, … in `options.model_dir`, and goes on
    where it stopped; finished ones are not trained again. The table is written to
    `cross_validation.csv` when all are finished.

    Args:
        options: `training.options.TrainOptions` with `validation_fold` "all".

    Returns:
        (list of `training.cross_validation.fold_row`, path of the table).

    Raises:
        InputError: flags that fit neither the dataset nor what `model_dir` holds.
    """
    dataset = manifests.load(options.data_dir)
    runs = folds.cross_validation_runs(options, dataset)
    run_folder.claim(options, dataset)
    rows = []
    for place, run in enumerate(runs, 1):
        print(f"fold {run.validation_fold}, run {place} of {len(runs)}, in {run.model_dir}",
              flush=True)
        result, _ = train_and_export(run)
        best = next(row for row in result.history if row["epoch"] == result.best_epoch)
        rows.append(cross_validation.fold_row(
            int(run.validation_fold), len(result.select_case_ids), best))
        tf.keras.backend.clear_session()  # lets go of the run's network before the next one's
    path = Path(options.model_dir) / cross_validation.FILE_NAME
    files.write_text(path, cross_validation.to_csv(rows))
    return rows, path


def model_card(result):
    """The `ModelCard` of a `TrainResult`."""
    dataset = result.manifest
    best = next((row for row in result.history if row["epoch"] == result.best_epoch), {})
    return ModelCard(
        recipe=dataset.recipe,
        modalities=result.modalities,
        label_scheme=dataset.label_scheme.name,
        targets=result.targets,
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
