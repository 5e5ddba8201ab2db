"""Cases of a dataset that lack some of the modalities that a network is trained on."""

import collections
from collections.abc import Collection, Sequence

from brats_tfrecord.errors import InputError
from brats_tfrecord.records.manifest import CaseRow, Manifest
from brats_tfrecord.training.train_options import TrainOptions
from brats_tfrecord.wording import plural


def require_trainable(
    options: TrainOptions, dataset: Manifest, train_folds: Collection[int]
) -> None:
    """Checks that the cases have the modalities that the run needs.

    Raises:
        InputError: a modality is missing in every training case; a case has none of the
            modalities; or a validation case lacks one that every training case has, so that the
            exported model would refuse this case.
    """
    names, flag = options.modality_names, f"--modalities={options.modalities}"
    train = _cases(dataset, train_folds)
    validation = _cases(dataset, options.validation_folds)
    absent = [name for name in names if train and all(name in case.missing for case in train)]
    if absent and len(absent) < len(names):
        rest = ",".join(name for name in names if name not in absent)
        raise InputError(
            f"{flag}: no training case has {', '.join(absent)} ({plural(len(train), 'case')}); "
            f"give --modalities={rest}"
        )
    empty = [case.case_id for case in (*train, *validation) if set(names) <= set(case.missing)]
    if empty:
        raise InputError(
            f"{flag}: {plural(len(empty), 'case')} of {dataset.root}, such as {empty[0]}, have "
            "none of them; give other --modalities, or convert the cohort without these cases"
        )
    if not options.augmentation.channel_dropout:
        _require_trained_without(options, train, validation)


def lines(options: TrainOptions, dataset: Manifest, train_folds: Collection[int]) -> list[str]:
    """Describes how many training and validation cases lack which modalities; often empty."""
    counts = {
        "training": _counts(options.modality_names, _cases(dataset, train_folds)),
        "validation": _counts(options.modality_names, _cases(dataset, options.validation_folds)),
    }
    return [
        f"{use} cases without a modality, which the network sees as zeros: "
        + ", ".join(f"{name} missing in {count}" for name, count in by_name.items())
        for use, by_name in counts.items()
        if by_name
    ]


def _require_trained_without(options, train, validation):
    seen = {name for case in train for name in case.missing}
    unseen = [name for name in options.modality_names if name not in seen]
    counts = _counts(unseen, validation)
    if counts:
        listed = ", ".join(f"{name} is missing in {count}" for name, count in counts.items())
        raise InputError(
            f"--validation_fold={options.validation_fold}: {listed} of its cases but in no "
            "training case, so the model would refuse them; give --modality_dropout=0.3, another "
            "--validation_fold, or --modalities without it"
        )


def _cases(dataset: Manifest, folds: Collection[int]) -> list[CaseRow]:
    return [case for case in dataset.cases if case.fold in folds]


def _counts(names: Sequence[str], cases: Sequence[CaseRow]) -> dict[str, int]:
    """Returns name -> number of cases that lack it, without those that none lacks."""
    counts = collections.Counter(name for case in cases for name in case.missing)
    return {name: counts[name] for name in names if counts[name]}
