import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brats_tfrecord.errors import InputError
from brats_tfrecord.records import shards


@pytest.mark.parametrize(
    "fold, index, count, name",
    [
        (0, 0, 19, "fold0-00000-of-00019.tfrecord"),
        (12, 3, 100000, "fold12-00003-of-100000.tfrecord"),
        (None, 1, 2, "unlabelled-00001-of-00002.tfrecord"),
    ],
)
def test_names_parse_both_ways(fold, index, count, name):
    assert shards.shard_name(fold, index, count) == name
    assert shards.parse_shard_name(name) == (fold, index, count)


@pytest.mark.parametrize(
    "name",
    [
        "dataset.json",
        "fold0-00000-of-00001.json",
        "x-fold0-00000-of-00001.tfrecord",
        "fold0.tfrecord",
    ],
)
def test_other_names_are_not_shards(name):
    assert shards.parse_shard_name(name) is None


def test_grades_are_spread_evenly_over_the_folds():
    grades = {f"h{n}": "HGG" for n in range(7)} | {f"l{n}": "LGG" for n in range(4)}
    folds = shards.assign_folds(grades, 3, seed=0)
    by_fold = [
        [grades[patient] for patient in grades if folds[patient] == fold] for fold in range(3)
    ]
    assert [len(members) for members in by_fold] == [4, 4, 3]
    assert sorted(members.count("HGG") for members in by_fold) == [2, 2, 3]


@given(
    patients=st.sets(st.text("abc123", min_size=1, max_size=6), min_size=1, max_size=40),
    folds=st.integers(1, 8),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_folds_are_even_and_complete_and_ignore_the_order_of_patients(patients, folds, seed, data):
    grades = {patient: data.draw(st.sampled_from([None, "HGG", "LGG"])) for patient in patients}
    if folds > len(patients):
        with pytest.raises(InputError, match=re.escape(f"--folds={len(patients)} is the most")):
            shards.assign_folds(grades, folds, seed)
        return
    fold_of = shards.assign_folds(grades, folds, seed)
    sizes = [list(fold_of.values()).count(fold) for fold in range(folds)]
    assert sum(sizes) == len(patients)
    assert max(sizes) - min(sizes) <= 1 and sizes[0] == max(sizes)
    assert shards.assign_folds(dict(reversed(grades.items())), folds, seed) == fold_of


@given(
    counts=st.lists(st.integers(0, 13), min_size=1, max_size=4),
    unlabelled=st.integers(0, 5),
    per_shard=st.integers(1, 5),
)
def test_every_case_is_in_one_shard_of_its_fold(counts, unlabelled, per_shard):
    fold_of = {f"case{fold}-{n}": fold for fold, count in enumerate(counts) for n in range(count)}
    fold_of |= {f"valid{n}": None for n in range(unlabelled)}
    plans = shards.plan_shards(fold_of, per_shard, seed=1)
    assert sorted(case for plan in plans for case in plan.case_ids) == sorted(fold_of)
    for plan in plans:
        assert {fold_of[case] for case in plan.case_ids} == {plan.fold}
        assert 1 <= len(plan.case_ids) <= per_shard
        assert shards.parse_shard_name(plan.name)[0] == plan.fold
    assert len({plan.name for plan in plans}) == len(plans)


def test_nine_cases_by_four_make_three_shards_of_three():
    plans = shards.plan_shards({f"c{n}": 0 for n in range(9)}, 4, seed=0)
    assert [len(plan.case_ids) for plan in plans] == [3, 3, 3]
    assert plans[2].name == "fold0-00002-of-00003.tfrecord"
    assert plans[2].sidecar == "fold0-00002-of-00003.json"


def test_flags_out_of_range_are_named():
    with pytest.raises(InputError, match="--folds=0"):
        shards.assign_folds({"a": None}, 0, 0)
    with pytest.raises(InputError, match="--cases_per_shard=0"):
        shards.plan_shards({"a": 0}, 0, 0)
    assert shards.assign_folds({}, 5, 0) == {}
