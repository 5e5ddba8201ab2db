"""Checks a shard of a finished dataset against its sidecar and the manifest."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import manifest, shards, tfrecord, verify_records
from brats_tfrecord.records.verify_manifest import Problem


@dataclass(frozen=True)
class ShardToVerify:
    """A shard and its entries in `dataset.json`, as JSON values.

    If `dataset.json` cannot be read, all attributes but `root` and `name` are None, and the entries
    of the sidecar are used.

    Attributes:
        root: folder of the dataset.
        name: file name of the shard.
        shard: its entry.
        rows: entries of its cases in the order of the records.
        recipe: the recipe of the dataset.
        label_scheme: name of the label scheme of the dataset.
    """

    root: Path
    name: str
    shard: dict[str, Any] | None = None
    rows: list[dict[str, Any]] | None = None
    recipe: dict[str, Any] | None = None
    label_scheme: str | None = None


def verify_shard(task: ShardToVerify) -> tuple[list[Problem], list[dict[str, Any]]]:
    """Reads a shard and its sidecar and checks every record; runs in a worker.

    A problem does not hide others, with one exception: the records after a damaged length cannot
    be found; they are named.

    Returns:
        the problems, and the failures that the sidecar lists, as JSON values.
    """
    sidecar, problems = _read_sidecar(task)
    shard = task.shard or sidecar.get("shard", {})
    rows = sidecar.get("cases", []) if task.rows is None else task.rows
    path = task.root / task.name
    if not path.is_file():
        cases = ", ".join(row["case_id"] for row in rows) or "none"
        problems.append(Problem(task.name, None, f"is missing, with its cases {cases}"))
    else:
        problems += _check_file(path, shard)
        recipe = task.recipe or sidecar.get("recipe")
        problems += _check_records(path, rows, recipe, task.label_scheme)
    return problems, sidecar.get("failures", [])


def _read_sidecar(task):
    """Reads a sidecar and compares it with the entries in `dataset.json`.

    Returns:
        its JSON value, {} if it cannot be read, and the problems.
    """
    name = shards.sidecar_name(task.name)
    try:
        sidecar = files.read_json(task.root / name)
        ids = [row["case_id"] for row in sidecar["cases"]]
        failures = [failure["case_id"] for failure in sidecar["failures"]]
        if not all(isinstance(case_id, str) for case_id in (*ids, *failures)):
            raise TypeError("a case_id is not a text")
        texts = [] if task.shard is None else list(_compare_sidecar(sidecar, task))
    except FileNotFoundError:
        return {}, [Problem(name, None, f"is missing; nothing proves {task.name} complete")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, [Problem(name, None, f"is damaged ({type(error).__name__}: {error})")]
    return sidecar, [Problem(name, case_id, text) for case_id, text in texts]


def _compare_sidecar(sidecar, task):
    """Yields (case id or None, text) for each difference of a sidecar from `dataset.json`."""
    for key, value in (("schema", manifest.SCHEMA), ("recipe", task.recipe)):
        if sidecar.get(key) != value:
            yield None, f"{key} is {sidecar.get(key)}; expected {value}"
    yield from ((None, text) for text in _differences(sidecar["shard"], task.shard))
    rows = {row["case_id"]: row for row in task.rows}
    ids = [row["case_id"] for row in sidecar["cases"]]
    for case_id, row in zip(ids, sidecar["cases"]):
        if case_id not in rows:
            yield case_id, "is not in dataset.json"
        else:
            yield from ((case_id, text) for text in _differences(row, rows[case_id]))
    for case_id in sorted(rows.keys() - set(ids)):
        yield case_id, "is not listed, though dataset.json says it is here"
    if sorted(ids) == sorted(rows) and ids != list(rows):
        yield None, "lists its cases in another order than dataset.json"


def _differences(entry, expected):
    return [
        f"{key} is {entry.get(key)}, dataset.json says {expected.get(key)}"
        for key in sorted(entry.keys() | expected.keys())
        if entry.get(key) != expected.get(key)
    ]


def _check_file(path, shard):
    size, digest = path.stat().st_size, files.sha256(path)
    if size != shard.get("bytes"):
        yield Problem(path.name, None, f"has {size} bytes; expected {shard.get('bytes')}")
    if digest != shard.get("sha256"):
        yield Problem(path.name, None, f"has SHA-256 {digest}; expected {shard.get('sha256')}")


def _check_records(path, rows, recipe, label_scheme):
    """Yields the problems with the number, order, frames and contents of the records."""
    try:
        recipe = Recipe.from_json(recipe)
    except (InputError, TypeError, ValueError) as error:
        yield Problem(path.name, None, f"its records are not checked: {error}")
        return
    expected = {row["case_id"]: row for row in rows}
    ids, seen, damaged = list(expected), [], set()
    for index, (payload, damage) in enumerate(_records(path)):
        listed = ids[index] if index < len(ids) else None
        case_id = verify_records.case_id_of(payload)
        if damage or case_id is None:
            # The id in a damaged payload counts only if it is one of this shard's.
            case_id = case_id if case_id in expected else listed
            damaged.add(case_id)
            text = damage or "is not the record of a case"
            yield Problem(path.name, case_id, f"record {index}: {text}")
        elif case_id not in expected:
            text = f"its record is number {index} here, where {listed or 'nothing'} is expected"
            yield Problem(path.name, case_id, text)
        elif case_id in seen:
            yield Problem(path.name, case_id, "its record is here more than once")
        else:
            seen.append(case_id)
            yield from verify_records.verify_record(
                path.name, payload, expected[case_id], recipe, label_scheme
            )
    for case_id in ids:
        if case_id not in damaged and case_id not in seen:
            text = "its record is missing, or cannot be found behind a damaged one"
            yield Problem(path.name, case_id, text)
    if seen != [case_id for case_id in ids if case_id in seen]:
        text = f"holds its records in the order {', '.join(seen)}; expected {', '.join(ids)}"
        yield Problem(path.name, None, text)


def _records(path: Path) -> Iterator[tuple[bytes, str | None]]:
    """Yields (payload, damage in words or None) of each record that can be found."""
    try:
        for framed in tfrecord.framed_records(path):
            try:
                yield tfrecord.unframe(framed), None
            except ValueError as error:
                yield framed[tfrecord.HEADER_BYTES : -tfrecord.FOOTER_BYTES], str(error)
    except tfrecord.DamagedRecord as error:
        yield b"", error.reason
