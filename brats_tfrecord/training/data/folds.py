"""Which folds of a dataset a run trains on, and the runs of a cross-validation."""

import dataclasses
from pathlib import Path

from brats_tfrecord.errors import InputError


def train_folds(options, dataset):
    """Folds left to train on.

    Args:
        options: `TrainOptions` of one run, whose validation fold is a number or none.
        dataset: `records.manifest.Manifest`.

    Returns:
        List of fold numbers, with one labelled case at least.

    Raises:
        InputError: flags that do not fit the dataset.
    """
    for name, folds in (
        ("validation_fold", options.validation_folds),
        ("test_fold", options.test_folds),
    ):
        for fold in folds:
            if not dataset.case_ids([fold]):
                there = sorted({case.fold for case in dataset.cases if case.fold is not None})
                raise InputError(
                    f"--{name}={fold}: {dataset.root} has no labelled case in that "
                    f"fold; expected one of {', '.join(map(str, there))} or none"
                )
    kept_out = {*options.validation_folds, *options.test_folds}
    left = [fold for fold in range(dataset.folds) if fold not in kept_out]
    if not dataset.case_ids(left):
        raise InputError(
            f"--data_dir={dataset.root}: no labelled case is left to train on; give "
            "--validation_fold=none --test_fold=none, or convert with more --folds"
        )
    return left


def cross_validation_runs(options, dataset):
    """The runs of --validation_fold=all: each fold in turn is that of validation.

    A test fold is in none of them, neither to train nor to select.

    Args:
        options: `TrainOptions` with `validation_fold` "all".
        dataset: `records.manifest.Manifest`.

    Returns:
        List of `TrainOptions`, whose `model_dir`s are fold0, fold1, … in that of `options`.

    Raises:
        InputError: flags that do not fit the dataset.
    """
    folds = [
        fold
        for fold in range(dataset.folds)
        if fold not in options.test_folds and dataset.case_ids([fold])
    ]
    if len(folds) < 2:
        raise InputError(
            f"--validation_fold=all: {dataset.root} has {len(folds)} folds of "
            "labelled cases outside the test fold; expected two or more: convert "
            "with more --folds, or give --validation_fold=none"
        )
    runs = [
        dataclasses.replace(
            options,
            validation_fold=str(fold),
            model_dir=str(Path(options.model_dir) / f"fold{fold}"),
        )
        for fold in folds
    ]
    for run in runs:
        train_folds(run, dataset)
    return runs
