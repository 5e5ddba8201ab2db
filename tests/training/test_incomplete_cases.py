"""Datasets whose cases lack modalities, against the modalities of a run."""

import dataclasses

import pytest

from brats_tfrecord.errors import InputError
from brats_tfrecord.training import cross_validation, incomplete_cases
from brats_tfrecord.training.train_options import TrainOptions

TRAIN = (1, 2)


def dataset_of(dataset, **missing):
    """The dataset, six cases in three folds, with what some cases lack."""
    cases = tuple(
        dataclasses.replace(case, missing=tuple(missing.get(case.case_id, "").split()))
        for case in dataset.cases
    )
    return dataclasses.replace(dataset, cases=cases)


def options_of(dataset, **flags):
    return TrainOptions(str(dataset.root), "model", **{"modalities": "flair,t1ce,t2", **flags})


def check(dataset, options=None, **missing):
    options = options or options_of(dataset)
    incomplete_cases.require_trainable(options, dataset_of(dataset, **missing), TRAIN)


def test_a_modality_that_no_training_case_has_is_refused(dataset):
    lacking = dict.fromkeys(("case1", "case2", "case4", "case5"), "t1 t2")
    with pytest.raises(
        InputError,
        match="--modalities=flair,t1ce,t2: no training case has t2 .4 cases.; give "
        "--modalities=flair,t1ce$",
    ):
        check(dataset, **lacking)
    check(dataset, options_of(dataset, modalities="flair,t1ce"), **lacking)


def test_a_case_without_any_of_the_modalities_is_refused(dataset):
    with pytest.raises(InputError, match="1 case of .*, such as case4, have none of them"):
        check(dataset, case4="flair t1ce t2")


def test_validation_cases_may_only_lack_what_training_cases_lack(dataset):
    with pytest.raises(
        InputError,
        match="--validation_fold=0: t2 is missing in 2 of its cases but in no training case",
    ):
        check(dataset, case0="t2", case3="t1 t2")
    check(dataset, case0="t2", case3="t1 t2", case5="t2")
    check(dataset, case0="t1")
    check(dataset, options_of(dataset, modality_dropout=0.3), case0="t2", case3="t1 t2")


def test_the_opening_lines_count_what_is_missing(dataset):
    options = options_of(dataset)
    assert incomplete_cases.lines(options, dataset_of(dataset, case1="t1"), TRAIN) == []
    lacking = dataset_of(dataset, case1="t2", case4="t1ce t2", case0="t2", unlabelled="flair")
    assert incomplete_cases.lines(options, lacking, TRAIN) == [
        "training cases without a modality, which the network sees as zeros: t1ce missing in 1, t2 "
        "missing in 2",
        "validation cases without a modality, which the network sees as zeros: t2 missing in 1",
    ]


def test_a_cross_validation_is_checked_before_its_first_run(dataset):
    options = options_of(dataset, validation_fold="all")
    with pytest.raises(InputError, match="--validation_fold=1: t2 is missing in 1 of its cases"):
        cross_validation.cross_validation_runs(options, dataset_of(dataset, case1="t2"))
