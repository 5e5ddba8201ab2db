"""Checks that the manifest of a dataset is consistent, and that its folder fits it."""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brats_tfrecord import files, spec
from brats_tfrecord.cohort.case import Case
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import manifest, shards, tfrecord
from brats_tfrecord.records.task import Settings

_KEYS = {
    *("schema", "recipe", "layout", "how_to_read", "modalities", "classes", "label_scheme"),
    *("folds", "seed", "versions", "cases", "shards", "failures"),
}
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("case_id", "patient_id", "shard", "name", "sha256", "reason"), str),
    **dict.fromkeys(("record_offset", "record_bytes", "image_offset", "mask_offset"), int),
    **dict.fromkeys(("count", "bytes"), int),
    **dict.fromkeys(("class_voxels", "warnings", "missing"), list),
    "grade": (str, type(None)),
    "fold": (int, type(None)),
    "labelled": bool,
    **dict.fromkeys(("inputs", "voxels"), dict),
}
"""Name of a field of an entry -> its type in JSON."""


@dataclass(frozen=True)
class Problem:
    """A difference between a dataset and what it should be.

    Attributes:
        file: the file that is wrong.
        case_id: the case that is affected; None if it is not a single one.
        text: the difference, in words.
    """

    file: str
    case_id: str | None
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.case_id, self.text) if part)


def read_manifest(root: Path) -> tuple[dict[str, Any], list[Problem]]:
    """Reads `dataset.json` of the folder `root`.

    Returns:
        its JSON value and the problems. With problems the value is {}: it cannot be compared with
        the shards.

    Raises:
        InputError: there is no manifest, or it has the schema of an earlier version.
    """
    manifest.require_finished(root)
    path = root / manifest.FILE_NAME
    try:
        value = files.read_json(path)
        schema = value["schema"]
    except (LookupError, ValueError, TypeError) as error:
        return {}, [Problem(path.name, None, f"is damaged: {error}")]
    if schema in range(manifest.SCHEMA):
        manifest.require_schema(path, schema)
    try:
        odd = ", ".join(sorted(_KEYS ^ set(value)))
        if odd:
            raise ValueError(f"keys {odd} are missing or unknown")
        if schema != manifest.SCHEMA:
            raise ValueError(f"schema {schema}, this version reads {manifest.SCHEMA}")
        Recipe.from_json(value["recipe"])
        if not isinstance(value["folds"], int):
            raise ValueError(f"folds is {value['folds']!r}")
        problems = [
            *_check_entries(value["shards"], manifest.Shard),
            *_check_entries(value["cases"], manifest.CaseRow),
            *_check_entries(value["failures"], manifest.Failure),
        ]
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        problems = [Problem(path.name, None, f"is damaged: {error}")]
    return ({} if problems else value), problems


def check_manifest(value: dict[str, Any]) -> Iterator[Problem]:
    """Yields the contradictions within a manifest, the value of `read_manifest`."""
    contradictions = itertools.chain(
        _check_names(value),
        _check_shards(value),
        _check_cases(value),
        _check_offsets(value),
        _check_folds(value),
        _check_order(value),
        _check_keys(value),
    )
    yield from (Problem(manifest.FILE_NAME, case_id, text) for case_id, text in contradictions)


def require_sound(root: Path | str) -> None:
    """Raises `InputError` if the manifest in `root` contradicts itself; reads no shard."""
    value, problems = read_manifest(Path(root))
    problems += check_manifest(value) if value else []
    if problems:
        raise InputError(
            f"{root}: {problems[0]} ({len(problems)} in all); copy the dataset again, "
            "or see convert_to_tfrecord.py --verify"
        )


def check_folder(root: Path, value: dict[str, Any]) -> Iterator[Problem]:
    """Yields the shards and sidecars in `root` that are not in the manifest."""
    listed = {shard["name"] for shard in value["shards"]}
    known = listed | set(map(shards.sidecar_name, listed)) | {manifest.FILE_NAME}
    for path in sorted(root.iterdir()):
        shard = path.name.removesuffix(".json").removesuffix(".tfrecord") + ".tfrecord"
        if path.name not in known and shards.parse_shard_name(shard):
            text = f"is not in {manifest.FILE_NAME}; remove it, or copy the dataset again"
            yield Problem(path.name, None, text)


def check_failures(
    listed: Iterable[dict[str, Any]], of_sidecars: Iterable[dict[str, Any]]
) -> Iterator[Problem]:
    """Yields the differences between the failures of the manifest and those of the sidecars."""
    ours = {failure["case_id"]: failure for failure in listed}
    theirs = {failure["case_id"]: failure for failure in of_sidecars}
    for case_id in sorted(ours.keys() | theirs.keys()):
        if ours.get(case_id) != theirs.get(case_id):
            yield Problem(
                manifest.FILE_NAME,
                case_id,
                f"failure is {ours.get(case_id, {}).get('reason')}, the sidecars "
                f"say {theirs.get(case_id, {}).get('reason')}",
            )


def _check_entries(entries, row_class):
    """Yields the entries that do not have the fields of `row_class`, or have other types."""
    fields = dataclasses.fields(row_class)
    expected = {field.name for field in fields}
    required = {field.name for field in fields if field.default is dataclasses.MISSING}
    for entry in entries:
        name = entry.get("case_id") or entry.get("name")
        if not required <= set(entry) <= expected:
            odd = ", ".join(sorted((required - set(entry)) | (set(entry) - expected)))
            yield Problem(manifest.FILE_NAME, name, f"fields {odd} are missing or unknown")
        for field in sorted(expected & set(entry) & set(_TYPES)):
            if not isinstance(entry[field], _TYPES[field]):
                text = f"{field} is {entry[field]!r}; its type is wrong"
                yield Problem(manifest.FILE_NAME, name, text)


# The functions below yield (case id or None, text) for each contradiction.


def _check_names(value):
    """Checks label scheme, classes and modalities."""
    expected = {"modalities": list(spec.MODALITIES)}
    scheme = spec.LABEL_SCHEMES.get(value["label_scheme"])
    if scheme is None:
        schemes = ", ".join(spec.LABEL_SCHEMES)
        yield None, f"label_scheme is {value['label_scheme']!r}; expected one of {schemes}"
    else:
        expected["classes"] = list(scheme.class_names)
    for key, names in expected.items():
        if value[key] != names:
            yield None, f"{key} is {value[key]}; expected {names}"


def _check_shards(value):
    """Checks that shards are of the fold in their name, and that each fold is complete."""
    counts = collections.Counter(row["shard"] for row in value["cases"])
    groups = collections.defaultdict(list)
    for shard in value["shards"]:
        name, fold = shard["name"], shard["fold"]
        parsed = shards.parse_shard_name(name)
        if parsed is None or parsed[0] != fold:
            yield None, f"shard {name} is said to be of fold {fold}"
        else:
            groups[parsed[0], parsed[2]].append(parsed[1])
        if fold is not None and fold not in range(value["folds"]):
            yield None, f"shard {name} lies beyond the {value['folds']} folds"
        if shard["count"] != counts[name]:
            yield (
                None,
                f"says {shard['count']} records of {name}, but lists {counts[name]} cases in it",
            )
    for (fold, count), indices in groups.items():
        if sorted(indices) != list(range(count)):
            yield (
                None,
                f"of the shards like {shards.shard_name(fold, 0, count)} the numbers "
                f"{sorted(indices)} are listed; expected each number below {count} once",
            )


def _check_cases(value):
    """Checks that each case is listed once, in a shard of its fold, with its modalities."""
    folds = {shard["name"]: shard["fold"] for shard in value["shards"]}
    shards_of = collections.defaultdict(list)
    for row in value["cases"]:
        case_id, shard, fold = row["case_id"], row["shard"], row["fold"]
        shards_of[case_id].append(shard)
        if shard not in folds:
            yield case_id, f"lies in {shard}, which is not listed"
        elif fold != folds[shard]:
            yield case_id, f"is said to be of fold {fold}, but lies in {shard}"
        if row["labelled"] != (fold is not None):
            yield case_id, f"labelled is {row['labelled']}, fold {fold}"
        absent = [name for name in spec.MODALITIES if name not in row["inputs"]]
        if row["inputs"] and row.get("missing", []) != absent:
            yield case_id, f"missing is {row.get('missing', [])}, its inputs lack {absent}"
        for name, digest in row["voxels"].items():
            if name not in spec.MODALITIES or not _is_sha256(digest):
                yield case_id, f"voxels of {name} are {digest!r}; expected a SHA-256 of a modality"
    for case_id, names in shards_of.items():
        if len(names) > 1:
            yield case_id, f"is listed {len(names)} times, in {', '.join(names)}"


def _is_sha256(value):
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _check_offsets(value):
    """Checks that the records of each shard follow each other without gaps."""
    ends: dict[str, int] = collections.defaultdict(int)
    for row in value["cases"]:
        offset = ends[row["shard"]] + tfrecord.HEADER_BYTES
        if row["record_offset"] != offset:
            yield (
                row["case_id"],
                f"record_offset is {row['record_offset']}; expected {offset}, behind the records "
                "before it",
            )
        ends[row["shard"]] = offset + row["record_bytes"] + tfrecord.FOOTER_BYTES


def _check_folds(value):
    """Checks that all cases of a patient are in one fold."""
    folds_of: dict[str, dict[int, str]] = collections.defaultdict(dict)
    for row in value["cases"]:
        if row["fold"] is not None:
            folds_of[row["patient_id"]].setdefault(row["fold"], row["case_id"])
    for patient, folds in folds_of.items():
        if len(folds) > 1:
            listed = ", ".join(
                f"fold {fold} ({case_id})" for fold, case_id in sorted(folds.items())
            )
            yield (
                next(iter(folds.values())),
                f"patient {patient} is in more than one fold: {listed}",
            )


def _check_order(value):
    """Checks that the cases of each fold have the order that the seed gives."""
    listed = collections.defaultdict(list)
    for row in value["cases"]:
        listed[row["fold"]].append(row["case_id"])
    one_shard_per_fold = shards.plan_shards(
        {row["case_id"]: row["fold"] for row in value["cases"]},
        max(len(value["cases"]), 1),
        value["seed"],
    )
    for plan in one_shard_per_fold:
        if list(plan.case_ids) != list(dict.fromkeys(listed[plan.fold])):
            yield (
                None,
                f"cases of fold {plan.fold} are not listed in the order that seed "
                f"{value['seed']} gives",
            )


def _check_keys(value):
    """Checks that the key of each case is the digest of the entries that determine its record."""
    settings = Settings(Recipe.from_json(value["recipe"]), value["how_to_read"], value["versions"])
    for row in value["cases"]:
        images = {row["inputs"][name] for name in spec.MODALITIES if name in row["inputs"]}
        if len(images) <= 1:  # one 4-D file; the manifest does not hold the order of its channels
            continue
        case = Case(
            row["case_id"], row["patient_id"], {}, None, value["label_scheme"], row["grade"]
        )
        if row["key"] != settings.key(case, row["inputs"]):
            yield (
                row["case_id"],
                "key does not fit; its inputs, recipe, versions or names here are not "
                "those it was converted with",
            )
