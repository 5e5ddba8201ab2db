"""Jobs that combine several rooms: train → tune → export, and evaluate → report."""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import tensorflow as tf

from brats_tfrecord import __version__, files
from brats_tfrecord.errors import InputError
from brats_tfrecord.evaluation.case_results import CaseResult
from brats_tfrecord.evaluation.evaluate import evaluate
from brats_tfrecord.evaluation.evaluate_options import EvaluateOptions
from brats_tfrecord.records import manifest as manifests
from brats_tfrecord.records.manifest import Manifest
from brats_tfrecord.report.figures import case_png
from brats_tfrecord.report.publish import publish
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving import stored_weights, tuning
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.export import export_predictor
from brats_tfrecord.serving.missing_modalities import MissingModalities
from brats_tfrecord.serving.predictor import Predictor
from brats_tfrecord.serving.recognition import Identity
from brats_tfrecord.serving.record_segmenter import RecordSegmenter
from brats_tfrecord.serving.validation_case import ValidationCase
from brats_tfrecord.training import (
    checkpoints,
    cross_validation,
    run_card,
    run_folder,
    tensorflow_errors,
)
from brats_tfrecord.training.initial_weights import InitialWeights, recorded_cases
from brats_tfrecord.training.loop import train
from brats_tfrecord.training.network import network_options, networks
from brats_tfrecord.training.train_options import DOCUMENTED, TrainOptions
from brats_tfrecord.training.trainer import TrainResult


@dataclass(frozen=True)
class ExportedRun:
    """A training run whose best epoch was exported.

    Attributes:
        result: result of the training.
        path: folder of the SavedModel.
        network: the exported network, float32.
        validation_cases: the errors of every validation case without post-processing; empty if no
            post-processing was to be chosen.
    """

    result: TrainResult
    path: Path
    network: tf.keras.Model
    validation_cases: list[ValidationCase]


def train_and_export(options: TrainOptions, began: float | None = None) -> ExportedRun | None:
    """Trains a network, tunes its post-processing and exports the weights of the best epoch.

    Args:
        options: options of the run.
        began: `time.monotonic()` from which --time_budget_minutes count; None for now.

    Returns:
        The exported run; None in the processes of a multiworker run that are not the chief.

    Raises:
        InputError: the options do not fit the dataset or the contents of `model_dir`, a record is
            damaged, or a device is out of memory.
        Stopped: the disk is full, or another process of a multiworker run was lost.
    """
    result = train(options, initial_weights(options), began)
    if result is None:
        return None
    with tensorflow_errors.explained(options):
        path = Path(options.model_dir) / "saved_model"
        network, card = _float32_network(result), model_card(result)
        predictor = Predictor(network, card)
        cases = _segment_validation_cases(predictor, card, result)
        export_predictor(predictor, _tuned(card, cases), path)
        if result.used_seconds:
            run_card.record_end(options.model_dir, result.used_seconds())
        return ExportedRun(result, path, network, cases)


def cross_validate(
    options: TrainOptions, began: float | None = None
) -> tuple[list[dict[str, Any]], Path, Path]:
    """Trains and exports one run per fold, except the test fold, then combines them.

    Each run has its own folder `fold0`, `fold1`, … in `options.model_dir` and resumes where it
    stopped; finished runs are not trained again. At the end the table of all runs is written to
    `cross_validation.csv`, and the average of their networks is exported to `saved_model`.

    Args:
        options: options of the runs, with `validation_fold` "all".
        began: as in `train_and_export`, for the first run.

    Returns:
        (list of `training.cross_validation.fold_row`, path of the table, path of the ensemble).

    Raises:
        InputError: the options do not fit the dataset or the contents of `model_dir`.
    """
    dataset = manifests.load(options.data_dir)
    fold_options = cross_validation.cross_validation_runs(options, dataset)
    run_folder.claim(options, dataset)
    runs = []
    for number, run_options in enumerate(fold_options, 1):
        print(
            f"fold {run_options.validation_fold}, run {number} of {len(fold_options)}, "
            f"in {run_options.model_dir}",
            flush=True,
        )
        runs.append(train_and_export(run_options, began if number == 1 else None))
        tf.keras.backend.clear_session()  # frees the memory of the run's training
    rows = [_fold_row(run) for run in runs]
    table = Path(options.model_dir) / cross_validation.FILE_NAME
    files.write_text(table, cross_validation.to_csv(rows))
    return rows, table, _export_ensemble(options, runs)


def evaluate_and_report(options: EvaluateOptions) -> list[CaseResult]:
    """Evaluates a SavedModel, writes the report and prints its main figures.

    Args:
        options: options of the evaluation.

    Returns:
        One result for each case.

    Raises:
        InputError, Stopped: as in `evaluation.evaluate.evaluate`.
    """
    return evaluate(options, draw=case_png, publish=publish)


def initial_weights(options: TrainOptions) -> InitialWeights | None:
    """Reads the weights of the SavedModel that a new run starts from.

    Warns in one line if the model has seen cases that the run is to score.

    Args:
        options: options of the run.

    Returns:
        The weights; None without `init_from`, or if the run has begun and needs none.

    Raises:
        InputError: `init_from` names no SavedModel with a single network.
    """
    if not options.init_from or checkpoints.has_state(options.model_dir):
        return None
    folder = Path(options.init_from)
    if (folder / "saved_model" / "saved_model.pb").is_file():
        folder /= "saved_model"
    try:
        card = cards.read(folder)
    except InputError as error:
        raise InputError(f"--init_from={error}") from error
    if card.members > 1:
        raise InputError(
            f"--init_from={folder}: is the average of {card.members} networks; give the model of "
            "one fold, such as MODEL_DIR/fold0"
        )
    architecture = _architecture(card, folder)
    try:
        [weights] = stored_weights.read(folder)
    except InputError as error:
        raise InputError(f"--init_from={error}") from error
    _warn_of_known_cases(options, card, folder)
    return InitialWeights(
        source=str(folder),
        architecture=architecture,
        inputs=card.input_names,
        outputs=card.channels.channel_names,
        weights=weights,
        known_cases={
            "train": list(card.train_case_ids),
            "select": list(card.select_case_ids),
            "identities": {name: dataclasses.asdict(who) for name, who in card.identities.items()},
        },
    )


def model_card(result: TrainResult) -> ModelCard:
    """Makes the card of a run's model, without post-processing.

    Cases of the model that the run started from count as cases of this one.
    """
    dataset, options = result.manifest, result.options
    best: dict[str, Any] = next(
        (row for row in result.history if row["epoch"] == result.best_epoch), {}
    )
    return ModelCard(
        recipe=dataset.recipe,
        modalities=result.modalities,
        brain_channel=result.options.brain_channel,
        label_scheme=dataset.label_scheme.name,
        targets=result.targets,
        piece=result.piece,
        flips=options.test_time_flips,
        dataset_fingerprint=dataset.fingerprint,
        **_known_cases(result),
        missing=missing_modalities(result, result.train_case_ids, result.select_case_ids),
        training={
            "options": options.identity(),
            **({} if options.preset == DOCUMENTED else {"preset": options.preset}),
            "epochs": len(result.history) if options.has_time_budget else options.epochs,
            "best_epoch": result.best_epoch,
            "best": {name: value for name, value in best.items() if value is not None},
            "precision": result.precision,
            "versions": {
                "brats-tfrecord": __version__,
                "tensorflow": metadata.version("tensorflow"),
            },
        },
    )


def _known_cases(result):
    """The fields of the card that say which cases the weights have seen."""
    train, select = result.train_case_ids, result.select_case_ids
    identities = identities_of(result.manifest, (*train, *select))
    earlier = recorded_cases(result.options.model_dir)
    if earlier is not None:
        known = {name: Identity.from_json(who) for name, who in earlier["identities"].items()}
        identities = {**known, **identities}
        train = list(dict.fromkeys([*train, *earlier["train"]]))
        select = dict.fromkeys([*select, *earlier["select"]])
        select = [name for name in select if name not in train]
    return {
        "train_case_ids": tuple(train),
        "select_case_ids": tuple(select),
        "identities": identities,
    }


def ensemble_card(results: Sequence[TrainResult]) -> ModelCard:
    """Makes the card of the average of several runs.

    A case counts as a training case if any of the runs was trained on it.
    """
    cards = [model_card(result) for result in results]
    trained = sorted(set().union(*(card.train_case_ids for card in cards)))
    selected = set().union(*(card.select_case_ids for card in cards)).difference(trained)
    return dataclasses.replace(
        cards[0],
        train_case_ids=tuple(trained),
        select_case_ids=tuple(sorted(selected)),
        identities={name: who for card in cards for name, who in card.identities.items()},
        missing=missing_modalities(
            results[0],
            set().union(*(result.train_case_ids for result in results)),
            set().union(*(result.select_case_ids for result in results)),
        ),
        training={**cards[0].training, "members": [card.training for card in cards]},
    )


def missing_modalities(
    result: TrainResult, train_case_ids: Collection[str], select_case_ids: Collection[str]
) -> MissingModalities:
    """Returns what the model card says about cases that lack modalities.

    Args:
        result: a run; its modalities, options and dataset are used.
        train_case_ids: cases that the network was trained on.
        select_case_ids: cases that a network that was not trained on them was validated on.
    """
    missing = {case.case_id: case.missing for case in result.manifest.cases}
    return MissingModalities.of_cases(
        result.modalities,
        [missing[case_id] for case_id in train_case_ids],
        [missing[case_id] for case_id in select_case_ids],
        result.options.augmentation.channel_dropout,
    )


def identities_of(dataset: Manifest, case_ids: Collection[str]) -> dict[str, Identity]:
    """Returns case id -> `Identity` of some cases of a dataset, for the model card."""
    wanted = set(case_ids)
    return {
        case.case_id: Identity(case.patient_id, case.voxels)
        for case in dataset.cases
        if case.case_id in wanted
    }


def _architecture(card, folder):
    """The options of a model's network, as `TrainOptions.architecture`."""
    try:
        flags = card.training["options"]
        filters = flags["filters"]
        if filters == "auto":
            filters = ",".join(map(str, network_options.NETWORKS[flags["network"]].filters))
        return {
            "network": flags["network"],
            "filters": filters,
            "first_stride": str(flags.get("first_stride", 1)),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"--init_from={folder}: its card names no network of this version; give a model that "
            f"train.py exported with --network={'|'.join(network_options.NETWORKS)}"
        ) from error


def _warn_of_known_cases(options, card, folder):
    """Prints a line if validation or test cases helped to make the model."""
    dataset = manifests.load(options.data_dir)
    folds = {*options.validation_folds, *options.test_folds}
    scored = [case for case in dataset.cases if case.fold in folds]
    known = [
        case.case_id
        for case in scored
        if card.recognise(case.case_id, case.patient_id, case.voxels).use != "unseen"
    ]
    if known:
        print(
            f"warning: --init_from={folder} has seen {len(known)} of the {len(scored)} validation "
            f"and test cases ({', '.join(known[:3])}{', …' if len(known) > 3 else ''}); their "
            "scores will be better than those of new cases",
            flush=True,
        )


def _float32_network(result):
    """Builds the network again in float32: on CPUs float16 is hundreds of times slower."""
    network = networks.build_network(result.network).model
    network.set_weights(result.weights)
    return network


def _segment_validation_cases(predictor, card, result):
    """Segments the cases that selected the epoch, unless no post-processing is to be chosen."""
    options = result.options
    if options.post_processing == "none" or not options.validation_folds:
        return []
    cases = tuning.segment_validation_cases(
        RecordSegmenter(card, predictor.predict),
        result.manifest,
        options.validation_folds,
        result.tuning_ends,
    )
    if len(cases) < len(result.select_case_ids):
        print(
            f"The time budget allows {len(cases)} of {len(result.select_case_ids)} validation "
            "cases for tuning the post-processing",
            flush=True,
        )
    return cases


def _tuned(card, validation_cases):
    """Returns the card with the post-processing that held-out cases support, and its evidence."""
    if not validation_cases:
        return card
    tuned = tuning.choose_post_processing(validation_cases)
    print(f"Post-processing: {tuned.text()}", flush=True)
    return dataclasses.replace(
        card,
        post_processing=tuned.post_processing,
        training={**card.training, "post_processing": tuned.to_json()},
    )


def _fold_row(run):
    result = run.result
    best = next(row for row in result.history if row["epoch"] == result.best_epoch)
    return cross_validation.fold_row(
        int(result.options.validation_fold), len(result.select_case_ids), best
    )


def _export_ensemble(options, runs):
    """Exports the average of all runs' networks.

    Its post-processing is chosen on all cases, each segmented by the one network that was not
    trained on it.
    """
    with tensorflow_errors.explained(options):
        path = Path(options.model_dir) / "saved_model"
        card = ensemble_card([run.result for run in runs])
        predictor = Predictor([run.network for run in runs], card)
        cases = [case for run in runs for case in run.validation_cases]
        export_predictor(predictor, _tuned(card, cases), path)
    return path
