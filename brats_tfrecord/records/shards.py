"""Assigns patients to folds and cases to shards, and names the shards."""

import collections
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from brats_tfrecord.errors import InputError

UNLABELLED = "unlabelled"
_NAME = re.compile(r"(?:fold(\d+)|unlabelled)-(\d{5,})-of-(\d{5,})\.tfrecord")


@dataclass(frozen=True)
class ShardPlan:
    """A shard to write.

    Attributes:
        name: file name.
        fold: fold of its cases; None if they are unlabelled.
        case_ids: ids of its cases in the order of the records.
    """

    name: str
    fold: int | None
    case_ids: tuple[str, ...]

    @property
    def sidecar(self) -> str:
        """Name of the JSON file that describes the shard and is written after it."""
        return sidecar_name(self.name)


def shard_name(fold: int | None, index: int, count: int) -> str:
    """Returns a name such as fold0-00003-of-00019.tfrecord, or unlabelled-… for fold None."""
    group = UNLABELLED if fold is None else f"fold{fold}"
    return f"{group}-{index:05d}-of-{count:05d}.tfrecord"


def parse_shard_name(name: str) -> tuple[int | None, int, int] | None:
    """Returns fold (None: unlabelled), index and count; None if it is not the name of a shard."""
    match = _NAME.fullmatch(name)
    if not match:
        return None
    fold, index, count = match.groups()
    return (None if fold is None else int(fold)), int(index), int(count)


def sidecar_name(name: str) -> str:
    """Returns the name of the sidecar of the shard `name`."""
    return name.removesuffix(".tfrecord") + ".json"


def assign_folds(grades: Mapping[str, str | None], folds: int, seed: int) -> dict[str, int]:
    """Assigns patients to folds, stratified by grade.

    The sizes of the folds differ by at most one, in total and within a grade, and fold 0 is the
    largest. The fold of a patient does not depend on the order of `grades`.

    Args:
        grades: patient id -> grade or None, of the labelled patients.
        folds: number of folds.
        seed: any integer.

    Returns:
        patient id -> fold.

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
    patients = sorted(grades, key=lambda patient: (grades[patient] or "", _draw(seed, patient)))
    return {patient: rank % folds for rank, patient in enumerate(patients)}


def plan_shards(
    fold_of_case: Mapping[str, int | None], cases_per_shard: int, seed: int
) -> list[ShardPlan]:
    """Groups cases into shards of one fold each.

    Args:
        fold_of_case: case id -> fold, or None for an unlabelled case.
        cases_per_shard: largest number of cases of a shard. The shards of a fold differ by at most
            one case.
        seed: seed of the order of the cases within a fold.

    Returns:
        the shards, folds in order, the unlabelled last.
    """
    if cases_per_shard < 1:
        raise InputError(f"--cases_per_shard={cases_per_shard}: expected at least 1")
    plans = []
    cases_of_fold = collections.defaultdict(list)
    for case_id, fold in fold_of_case.items():
        cases_of_fold[fold].append(case_id)
    for fold in sorted(cases_of_fold, key=lambda fold: (fold is None, fold)):
        members = sorted(cases_of_fold[fold], key=lambda case_id: _draw(seed, case_id))
        count = -(-len(members) // cases_per_shard)
        for index in range(count):
            first, last = (len(members) * k // count for k in (index, index + 1))
            plans.append(
                ShardPlan(shard_name(fold, index, count), fold, tuple(members[first:last]))
            )
    return plans


def _draw(seed, name):
    """Returns a pseudo-random sort key that is the same on every machine and in every version."""
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
