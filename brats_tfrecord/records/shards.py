"""Folds and shards in pure integers and strings: who goes where, and what it is called."""

import hashlib
import re
from dataclasses import dataclass

from brats_tfrecord.errors import InputError

UNLABELLED = "unlabelled"
_NAME = re.compile(r"(?:fold(\d+)|unlabelled)-(\d{5,})-of-(\d{5,})\.tfrecord")


@dataclass(frozen=True)
class ShardPlan:
    """A shard before it exists: its file name, its fold (None: unlabelled), its cases in order."""

    name: str
    fold: int | None
    case_ids: tuple[str, ...]

    @property
    def sidecar(self):
        """Name of the JSON file that proves the shard complete."""
        return sidecar_name(self.name)


def shard_name(fold, index, count):
    """`fold0-00003-of-00019.tfrecord`; fold None gives `unlabelled-…`."""
    group = UNLABELLED if fold is None else f"fold{fold}"
    return f"{group}-{index:05d}-of-{count:05d}.tfrecord"


def parse_shard_name(name):
    """(fold or None, index, count) of a shard's name; None if `name` is not a shard's."""
    match = _NAME.fullmatch(name)
    if not match:
        return None
    fold, index, count = match.groups()
    return (None if fold is None else int(fold)), int(index), int(count)


def sidecar_name(name):
    """The JSON file beside the shard `name`."""
    return name.removesuffix(".tfrecord") + ".json"


def assign_folds(grades, folds, seed):
    """Deals patients to folds, stratified by grade.

    Sizes differ by at most one, in all and within a grade, and fold 0 is the largest. A patient's
    place depends on its id and the seed, never on the order of listing.

    Args:
        grades: patient id -> grade or None, of the labelled patients.
        folds: how many; 0 patients need none.
        seed: any integer.

    Returns:
        dict of patient id -> fold.

    Raises:
        InputError: fewer than one fold, or more folds than patients.
    """
    if folds < 1:
        raise InputError(f"--folds={folds}: expected at least 1")
    if grades and folds > len(grades):
        raise InputError(
            f"--folds={folds}: only {len(grades)} labelled patients; "
            f"--folds={len(grades)} is the most that works"
        )
    dealt = sorted(grades, key=lambda patient: (grades[patient] or "", _draw(seed, patient)))
    return {patient: position % folds for position, patient in enumerate(dealt)}


def plan_shards(fold_of_case, cases_per_shard, seed):
    """Groups cases into shards of one fold each.

    Args:
        fold_of_case: case id -> fold, or None for an unlabelled case.
        cases_per_shard: the most cases a shard holds; shards of a fold differ by at most one.
        seed: mixes the cases within a fold.

    Returns:
        list of `ShardPlan`, folds in order, the unlabelled last.
    """
    if cases_per_shard < 1:
        raise InputError(f"--cases_per_shard={cases_per_shard}: expected at least 1")
    plans = []
    groups = sorted(set(fold_of_case.values()), key=lambda fold: (fold is None, fold))
    for fold in groups:
        members = sorted(
            (case for case, of in fold_of_case.items() if of == fold),
            key=lambda case: _draw(seed, case),
        )
        count = -(-len(members) // cases_per_shard)
        for index in range(count):
            first, last = (len(members) * k // count for k in (index, index + 1))
            plans.append(
                ShardPlan(shard_name(fold, index, count), fold, tuple(members[first:last]))
            )
    return plans


def _draw(seed, name):
    """A fixed pseudo-random key: the same on every machine and in every version."""
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
