"""Selects the folds of a run, lists the runs of a cross-validation and makes their table."""

import csv
import dataclasses
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from brats_tfrecord import spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.records.manifest import Manifest
from brats_tfrecord.training import incomplete_cases
from brats_tfrecord.training.train_options import TrainOptions

FILE_NAME = "cross_validation.csv"
FIGURES = (*(f"dice_{region}" for region in spec.REGIONS), "dice_mean")
_FOLDS_SHARE = 0.9
"""Share of a time budget for the runs; the rest is for the average of their networks."""

COLUMNS = ("fold", "cases", "best_epoch", *FIGURES)


def fold_row(fold: int, cases: int, best: Mapping) -> dict:
    """Makes the row of one fold.

    Args:
        fold: the validation fold.
        cases: number of its cases.
        best: row of `History` of the best epoch.

    Returns:
        dict of `COLUMNS`; the Dice are the means over the fold's cases in the best epoch, NaN if
        its row of the history was lost.
    """
    return {
        "fold": fold,
        "cases": cases,
        "best_epoch": best["epoch"],
        **{
            name: math.nan if best[f"val_{name}"] is None else best[f"val_{name}"]
            for name in FIGURES
        },
    }


def over_folds(rows: Sequence[Mapping]) -> tuple[dict[str, float], dict[str, float]]:
    """Computes mean and standard deviation (n - 1) over the folds, each fold counting once.

    Args:
        rows: two or more rows of `fold_row`.

    Returns:
        Two dicts from each of `FIGURES`: to its mean, and to its standard deviation.
    """
    columns = {name: [row[name] for row in rows] for name in FIGURES}
    return (
        {name: statistics.mean(values) for name, values in columns.items()},
        {name: statistics.stdev(values) for name, values in columns.items()},
    )


def to_csv(rows: Sequence[Mapping]) -> str:
    """Formats the table as CSV; its last two lines are the mean and the standard deviation."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for name, figures in zip(("mean", "sd"), over_folds(rows)):
        writer.writerow({"fold": name, **figures})
    return text.getvalue()


def to_text(rows: Sequence[Mapping]) -> str:
    """Formats the table for a terminal."""
    titles = [f"Dice {name.removeprefix('dice_')}" for name in FIGURES]
    lines = [f"{'fold':<7}{'cases':>6}{'best epoch':>12}" + "".join(f"{t:>17}" for t in titles)]
    for row in rows:
        lines.append(
            f"{row['fold']:<7}{row['cases']:>6}{row['best_epoch']:>12}"
            + "".join(f"{row[name]:>17.3f}" for name in FIGURES)
        )
    means, deviations = over_folds(rows)
    lines.append(
        f"{'mean ± sd':<25}"
        + "".join(f"{f'{means[name]:.3f} ± {deviations[name]:.3f}':>17}" for name in FIGURES)
    )
    return "\n".join(lines)


def train_folds(options: TrainOptions, dataset: Manifest) -> list[int]:
    """Selects the folds that are neither for validation nor for testing.

    Args:
        options: of one run, whose validation fold is a number or none.
        dataset: the dataset to train on.

    Returns:
        Fold numbers; the folds hold at least one labelled case.

    Raises:
        InputError: the folds that the options name do not fit the dataset.
    """
    labelled = sorted({case.fold for case in dataset.cases if case.fold is not None})
    if not labelled:
        raise InputError(
            f"--data_dir={dataset.root}: has no case with a mask to train on; convert a cohort "
            "with masks"
        )
    held_out = {"validation_fold": options.validation_folds, "test_fold": options.test_folds}
    for flag, folds in held_out.items():
        for fold in folds:
            if not dataset.case_ids([fold]):
                raise InputError(
                    f"--{flag}={fold}: {dataset.root} has no labelled case in that "
                    f"fold; expected one of {', '.join(map(str, labelled))} or none"
                )
    selected = [
        fold
        for fold in range(dataset.folds)
        if fold not in (*options.validation_folds, *options.test_folds)
    ]
    if not dataset.case_ids(selected):
        raise InputError(
            f"--data_dir={dataset.root}: no labelled case is left to train on; give "
            "--validation_fold=none --test_fold=none, or convert with more --folds"
        )
    return selected


def cross_validation_runs(options: TrainOptions, dataset: Manifest) -> list[TrainOptions]:
    """Makes the options of each run of --validation_fold=all: one run per validation fold.

    The test fold takes no part in any of them, neither for training nor for selection.

    Args:
        options: with `validation_fold` "all".
        dataset: the dataset to train on.

    Returns:
        One `TrainOptions` per fold; their `model_dir`s are fold0, fold1, … in that of `options`.
        A time budget is divided among them.

    Raises:
        InputError: the options do not fit the dataset.
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
            time_budget_minutes=_FOLDS_SHARE * options.time_budget_minutes / len(folds),
        )
        for fold in folds
    ]
    for run in runs:
        incomplete_cases.require_trainable(run, dataset, train_folds(run, dataset))
    return runs
