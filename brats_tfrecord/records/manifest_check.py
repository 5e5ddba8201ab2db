"""Proves the manifest of a dataset in itself, and its folder against it."""

import collections
import dataclasses
from pathlib import Path

from brats_tfrecord import files, spec
from brats_tfrecord.cohort.case import Case
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import manifest, shards
from brats_tfrecord.records.record_check import Problem
from brats_tfrecord.records.task import Settings

_KEYS = {
    "schema",
    "recipe",
    "layout",
    "how_to_read",
    "modalities",
    "classes",
    "label_scheme",
    "folds",
    "seed",
    "versions",
    "cases",
    "shards",
    "failures",
}
_TYPES = {
    "case_id": str,
    "patient_id": str,
    "grade": (str, type(None)),
    "labelled": bool,
    "fold": (int, type(None)),
    "shard": str,
    "inputs": dict,
    "class_voxels": list,
    "warnings": list,
    "name": str,
    "count": int,
    "bytes": int,
    "sha256": str,
    "reason": str,
}


def read_manifest(root):
    """Reads `dataset.json` of the folder `root`.

    Returns:
        (its JSON value, list of `Problem`); the value is {} where it is not sound enough to be
        compared with anything.

    Raises:
        InputError: there is none.
    """
    path = root / manifest.FILE_NAME
    if not path.is_file():
        manifest.load(root)  # says why there is none
    try:
        value = files.read_json(path)
        odd = ", ".join(sorted(_KEYS ^ set(value)))
        if odd:
            raise ValueError(f"keys {odd} are missing or unknown")
        if value["schema"] != manifest.SCHEMA:
            raise ValueError(f"schema {value['schema']}, this version reads {manifest.SCHEMA}")
        Recipe.from_json(value["recipe"])
        if not isinstance(value["folds"], int):
            raise ValueError(f"folds is {value['folds']!r}")
        problems = [
            *_entries(value["shards"], manifest.Shard),
            *_entries(value["cases"], manifest.CaseRow),
            *_entries(value["failures"], manifest.Failure),
        ]
    except (ValueError, TypeError, AttributeError) as error:
        problems = [Problem(path.name, None, f"is damaged: {error}")]
    return ({} if problems else value), problems


def check_manifest(value):
    """Yields what is wrong with a manifest in itself; `value` is that of `read_manifest`."""
    for check in (_check_head, _check_rows, _check_order, _check_keys):
        yield from check(value)


def require_sound(root):
    """Raises InputError if the manifest in `root` contradicts itself; quick, reads no record."""
    value, problems = read_manifest(Path(root))
    problems += check_manifest(value) if value else []
    if problems:
        raise InputError(
            f"{root}: {problems[0]} ({len(problems)} in all); copy the dataset again, "
            "or see convert_to_tfrecord.py --verify"
        )


def check_folder(root, value):
    """Files that look like ours and are not listed."""
    listed = {shard["name"] for shard in value["shards"]}
    known = listed | set(map(shards.sidecar_name, listed)) | {manifest.FILE_NAME}
    for path in sorted(root.iterdir()):
        shard = path.name.removesuffix(".json").removesuffix(".tfrecord") + ".tfrecord"
        if path.name not in known and shards.parse_shard_name(shard):
            yield Problem(
                path.name,
                None,
                f"is not in {manifest.FILE_NAME}; remove it, or copy the dataset again",
            )


def check_failures(listed, of_sidecars):
    """The manifest's failures are those of the sidecars."""
    listed, found = (
        {failure["case_id"]: failure for failure in failures} for failures in (listed, of_sidecars)
    )
    for case_id in sorted(listed.keys() | found.keys()):
        if listed.get(case_id) != found.get(case_id):
            yield Problem(
                manifest.FILE_NAME,
                case_id,
                f"failure is {(listed.get(case_id) or {}).get('reason')}, the sidecars "
                f"say {(found.get(case_id) or {}).get('reason')}",
            )


def _entries(entries, row):
    """Every entry has the fields of the dataclass `row`, of their types."""
    expected = {field.name for field in dataclasses.fields(row)}
    for entry in entries:
        name = entry.get("case_id") or entry.get("name")
        if set(entry) != expected:
            odd = ", ".join(sorted(expected ^ set(entry)))
            yield Problem(manifest.FILE_NAME, name, f"fields {odd} are missing or unknown")
        for field in sorted(expected & set(entry) & set(_TYPES)):
            if not isinstance(entry[field], _TYPES[field]):
                yield Problem(
                    manifest.FILE_NAME, name, f"{field} is {entry[field]!r}; its type is wrong"
                )


def _check_head(value):
    """What the manifest says of the whole dataset."""
    scheme = spec.LABEL_SCHEMES.get(value["label_scheme"])
    expected = {"modalities": list(spec.MODALITIES)}
    if scheme is None:
        yield Problem(
            manifest.FILE_NAME,
            None,
            f"label_scheme is {value['label_scheme']!r}; "
            f"expected one of {', '.join(spec.LABEL_SCHEMES)}",
        )
    else:
        expected["classes"] = list(scheme.class_names)
    for key, wanted in expected.items():
        if value[key] != wanted:
            yield Problem(manifest.FILE_NAME, None, f"{key} is {value[key]}; expected {wanted}")
    groups = collections.defaultdict(list)
    for shard in value["shards"]:
        parsed = shards.parse_shard_name(shard["name"])
        if parsed is None or parsed[0] != shard["fold"]:
            yield Problem(
                manifest.FILE_NAME,
                None,
                f"shard {shard['name']} is said to be of fold {shard['fold']}",
            )
        else:
            groups[parsed[0], parsed[2]].append(parsed[1])
        if shard["fold"] is not None and shard["fold"] not in range(value["folds"]):
            yield Problem(
                manifest.FILE_NAME,
                None,
                f"shard {shard['name']} lies beyond the {value['folds']} folds",
            )
    for (fold, count), indices in groups.items():
        if sorted(indices) != list(range(count)):
            yield Problem(
                manifest.FILE_NAME,
                None,
                f"of {shards.shard_name(fold, 0, count)} and its like the numbers "
                f"{sorted(indices)} are listed; expected each below {count} once",
            )


def _check_rows(value):
    """Ids unique, patients within one fold, every case in a shard that counts it."""
    listed = {shard["name"]: shard for shard in value["shards"]}
    shards_of, folds_of = collections.defaultdict(list), collections.defaultdict(dict)
    counts = collections.Counter(row["shard"] for row in value["cases"])
    for row in value["cases"]:
        case_id, shard = row["case_id"], listed.get(row["shard"])
        shards_of[case_id].append(row["shard"])
        if row["fold"] is not None:
            folds_of[row["patient_id"]].setdefault(row["fold"], case_id)
        if shard is None:
            yield Problem(
                manifest.FILE_NAME, case_id, f"lies in {row['shard']}, which is not listed"
            )
        elif row["fold"] != shard["fold"]:
            yield Problem(
                manifest.FILE_NAME,
                case_id,
                f"is said to be of fold {row['fold']}, but lies in {row['shard']}",
            )
        if row["labelled"] != (row["fold"] is not None):
            yield Problem(
                manifest.FILE_NAME, case_id, f"labelled is {row['labelled']}, fold {row['fold']}"
            )
    for case_id, places in shards_of.items():
        if len(places) > 1:
            yield Problem(
                manifest.FILE_NAME,
                case_id,
                f"is listed {len(places)} times, in {', '.join(places)}",
            )
    for patient, folds in folds_of.items():
        if len(folds) > 1:
            where = ", ".join(f"fold {fold} ({case})" for fold, case in sorted(folds.items()))
            yield Problem(
                manifest.FILE_NAME,
                next(iter(folds.values())),
                f"patient {patient} is in more than one fold: {where}",
            )
    for name, shard in listed.items():
        if shard["count"] != counts[name]:
            yield Problem(
                manifest.FILE_NAME,
                None,
                f"says {shard['count']} records of {name}, but lists {counts[name]} cases there",
            )


def _check_order(value):
    """The cases of a fold follow each other as the seed deals them."""
    listed = collections.defaultdict(list)
    for row in value["cases"]:
        listed[row["fold"]].append(row["case_id"])
    one_shard_each = shards.plan_shards(
        {row["case_id"]: row["fold"] for row in value["cases"]},
        max(len(value["cases"]), 1),
        value["seed"],
    )
    for plan in one_shard_each:
        if list(plan.case_ids) != list(dict.fromkeys(listed[plan.fold])):
            yield Problem(
                manifest.FILE_NAME,
                None,
                f"cases of fold {plan.fold} are not listed in "
                f"the order that seed {value['seed']} deals",
            )


def _check_keys(value):
    """A case's key is the digest of inputs, recipe, versions and names that the manifest tells."""
    settings = Settings(
        Recipe.from_json(value["recipe"]), value["how_to_read"], value["versions"], None
    )
    for row in value["cases"]:
        images = {row["inputs"].get(name) for name in spec.MODALITIES}
        if len(images) == 1:  # one 4-D file; the order of its channels is not told here
            continue
        case = Case(
            row["case_id"], row["patient_id"], {}, None, value["label_scheme"], row["grade"]
        )
        if row["key"] != settings.key(case, row["inputs"]):
            yield Problem(
                manifest.FILE_NAME,
                row["case_id"],
                "key does not fit; its inputs, recipe, versions or names here are not "
                "those it was converted with",
            )
