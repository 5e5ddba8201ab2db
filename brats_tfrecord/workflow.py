"""Whole jobs that join several rooms: train → export → tune, and evaluate → report."""

import dataclasses
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import tensorflow as tf

from brats_tfrecord import __version__, files
from brats_tfrecord.evaluation.evaluate import evaluate
from brats_tfrecord.records import manifest as manifests
from brats_tfrecord.report.figures import case_figure
from brats_tfrecord.report.publish import publish
from brats_tfrecord.serving import tuning
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.training import cross_validation, run_folder
from brats_tfrecord.training.data import folds
from brats_tfrecord.training.distribution import resources
from brats_tfrecord.training.loop import train
from brats_tfrecord.training.network import networks
from brats_tfrecord.training.result import TrainResult

WHOLE_VOXELS = 192**3
"""Images up to this size are served in one piece: some 3 GB of activations with the U-Net."""


def train_and_export(options):
    """Trains, then exports the best epoch's weights with the post-processing that helps them.

    Args:
        options: `training.train_options.TrainOptions`.

    Returns:
        `Exported`; None in the processes of a multiworker run that are not the chief.
    """
    with resources.named(options):
        result = train(options)
        if result is None:
            return None
        path = Path(options.model_dir) / "saved_model"
        network, card = _float32_network(result), model_card(result)
        export_saved_model([network], card, path)
        compared = _compare(path, result)
        _export_tuned([network], card, path, compared)
        return Exported(result, path, network, compared)


def evaluate_and_report(options):
    """Evaluates a SavedModel and writes the report; prints the headline.

    Args:
        options: `evaluation.evaluate_options.EvaluateOptions`.

    Returns:
        list of `evaluation.case_results.CaseResult`, one a case.

    Raises:
        InputError, Stopped: as `evaluation.evaluate.evaluate`.
    """
    return evaluate(options, draw=case_figure, publish=publish)


@dataclass(frozen=True)
class Exported:
    """A trained and exported run.

    Attributes:
        result: `training.result.TrainResult`.
        path: of the SavedModel.
        network: the float32 Keras model in it.
        compared: `serving.tuning.Compared` of every validation case, without post-processing;
            empty where none was asked for.
    """

    result: TrainResult
    path: Path
    network: tf.keras.Model
    compared: list


def _float32_network(result):
    """The network again, in float32: half precision is for training hardware, and on a CPU
    float16 is hundreds of times slower."""
    network = networks.build_network(result.network).model
    network.set_weights(result.weights)
    return network


def _compare(path, result):
    """Runs the model exported to `path` over the cases that selected it."""
    options = result.options
    if options.post_processing == "none" or not options.validation_folds:
        return []
    return tuning.compare(path, result.manifest, options.validation_folds)


def _export_tuned(models, card, path, compared):
    """Exports once more if a post-processing helps the `compared` cases."""
    choice = tuning.choose(compared)
    if compared:
        print(
            f"Post-processing chosen on {choice.cases} validation cases: {choice.text()}",
            flush=True,
        )
    if not choice.post_processing.is_off:
        export_saved_model(
            models,
            dataclasses.replace(
                card,
                post_processing=choice.post_processing,
                training={**card.training, "post_processing": choice.to_json()},
            ),
            path,
        )


def cross_validate(options):
    """Trains and exports a run for each fold, all but the test fold, then gathers them.

    Each run is in a folder of its own, `fold0`, `fold1`, … in `options.model_dir`, and goes on
    where it stopped; finished ones are not trained again. When all are finished their table is
    written to `cross_validation.csv`, and the average of their networks to `saved_model`.

    Args:
        options: `training.train_options.TrainOptions` with `validation_fold` "all".

    Returns:
        (list of `training.cross_validation.fold_row`, path of the table, path of the ensemble).

    Raises:
        InputError: flags that fit neither the dataset nor what `model_dir` holds.
    """
    dataset = manifests.load(options.data_dir)
    all_runs = folds.cross_validation_runs(options, dataset)
    run_folder.claim(options, dataset)
    runs = [_one_run(run, place, len(all_runs)) for place, run in enumerate(all_runs, 1)]
    rows = [_fold_row(run) for run in runs]
    table = Path(options.model_dir) / cross_validation.FILE_NAME
    files.write_text(table, cross_validation.to_csv(rows))
    return rows, table, _export_ensemble(options, runs)


def _one_run(run, place, count):
    print(f"fold {run.validation_fold}, run {place} of {count}, in {run.model_dir}", flush=True)
    exported = train_and_export(run)
    tf.keras.backend.clear_session()  # lets go of what the run's training held
    return exported


def _fold_row(exported):
    result = exported.result
    best = next(row for row in result.history if row["epoch"] == result.best_epoch)
    return cross_validation.fold_row(
        int(result.options.validation_fold), len(result.select_case_ids), best
    )


def _export_ensemble(options, runs):
    """One SavedModel of all folds' networks; its post-processing is chosen on every case, each
    as predicted by the one network that had not learnt it."""
    with resources.named(options):
        path = Path(options.model_dir) / "saved_model"
        models = [run.network for run in runs]
        card = ensemble_card([run.result for run in runs])
        export_saved_model(models, card, path)
        _export_tuned(models, card, path, [case for run in runs for case in run.compared])
    return path


def ensemble_card(results):
    """The `ModelCard` of the average of several runs: a case that any of them met counts as met."""
    cards = [model_card(result) for result in results]
    trained = sorted(set().union(*(card.train_case_ids for card in cards)))
    selected = set().union(*(card.select_case_ids for card in cards)).difference(trained)
    return dataclasses.replace(
        cards[0],
        members=len(cards),
        train_case_ids=tuple(trained),
        select_case_ids=tuple(sorted(selected)),
        training={**cards[0].training, "members": [card.training for card in cards]},
    )


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
        flips=result.options.test_time_flips,
        members=1,
        post_processing=PostProcessing(),
        assets={},
        dataset_fingerprint=dataset.fingerprint,
        train_case_ids=tuple(result.train_case_ids),
        select_case_ids=tuple(result.select_case_ids),
        training={
            "options": result.options.identity(),
            "epochs": result.options.epochs,
            "best_epoch": result.best_epoch,
            "best": {name: value for name, value in best.items() if value is not None},
            "precision": result.precision,
            "versions": {
                "brats-tfrecord": __version__,
                "tensorflow": metadata.version("tensorflow"),
            },
        },
    )
