"""Proves one shard of a finished dataset against its sidecar and manifest, record by record."""

from dataclasses import dataclass
from pathlib import Path

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import manifest, record_check, shards, tfrecord
from brats_tfrecord.records.record_check import Problem


@dataclass(frozen=True)
class ShardToCheck:
    """A shard and what `dataset.json` says of it, as JSON values.

    Attributes:
        root: the dataset's folder.
        name: the shard's file name.
        shard, rows: its entry, and its cases' rows in the order of the records.
        recipe: the recipe's JSON value.
        label_scheme: name of the dataset's scheme.

    All but root and name are None where `dataset.json` cannot be read: then the sidecar's word is
    taken.
    """

    root: Path
    name: str
    shard: dict | None
    rows: list | None
    recipe: dict | None
    label_scheme: str | None


@dataclass(frozen=True)
class ShardReport:
    """What is wrong with a shard, and the failures that its sidecar lists, as JSON values."""

    problems: list
    failures: list


def check_shard(check):
    """Re-reads one shard and its sidecar; runs in a worker.

    Args:
        check: `ShardToCheck`.

    Returns:
        `ShardReport`. Nothing that is wrong hides what comes after it, except a damaged length:
        the records behind it cannot be found, and are named.
    """
    sidecar, problems = _read_sidecar(check)
    shard = check.shard or sidecar.get("shard", {})
    rows = sidecar.get("cases", []) if check.rows is None else check.rows
    recipe = check.recipe or sidecar.get("recipe")
    path = check.root / check.name
    if not path.is_file():
        cases = ", ".join(row["case_id"] for row in rows) or "none"
        problems.append(Problem(check.name, None, f"is missing, with its cases {cases}"))
    else:
        problems += _check_file(path, shard)
        problems += _check_records(path, rows, recipe, check.label_scheme)
    return ShardReport(problems, sidecar.get("failures", []))


def _read_sidecar(check):
    """(JSON value, problems): the sidecar against what `dataset.json` says of its shard."""
    name = shards.sidecar_name(check.name)
    try:
        sidecar = files.read_json(check.root / name)
        ids = [row["case_id"] for row in sidecar["cases"]]
        failures = [failure["case_id"] for failure in sidecar["failures"]]
        if not all(isinstance(case_id, str) for case_id in (*ids, *failures)):
            raise TypeError("a case_id is no text")
    except FileNotFoundError:
        return {}, [Problem(name, None, f"is missing; nothing proves {check.name} complete")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {}, [Problem(name, None, f"is damaged ({type(error).__name__}: {error})")]
    if check.shard is None:
        return sidecar, []
    told = [("schema", manifest.SCHEMA), ("recipe", check.recipe)]
    problems = [
        Problem(name, None, f"{key} is {sidecar.get(key)}; expected {value}")
        for key, value in told
        if sidecar.get(key) != value
    ]
    problems += [Problem(name, None, what) for what in _differences(sidecar["shard"], check.shard)]
    rows = {row["case_id"]: row for row in check.rows}
    for row in sidecar["cases"]:
        what = (
            _differences(row, rows[row["case_id"]])
            if row["case_id"] in rows
            else ["is not in dataset.json"]
        )
        problems += [Problem(name, row["case_id"], each) for each in what]
    problems += [
        Problem(name, case_id, "is not listed, though dataset.json says it is here")
        for case_id in rows
        if case_id not in ids
    ]
    if sorted(ids) == sorted(rows) and ids != list(rows):
        problems.append(Problem(name, None, "lists its cases in another order than dataset.json"))
    return sidecar, problems


def _differences(mine, theirs):
    return [
        f"{key} is {mine.get(key)}, dataset.json says {theirs.get(key)}"
        for key in sorted(mine.keys() | theirs.keys())
        if mine.get(key) != theirs.get(key)
    ]


def _check_file(path, shard):
    size, digest = path.stat().st_size, files.sha256(path)
    if size != shard.get("bytes"):
        yield Problem(path.name, None, f"has {size} bytes; expected {shard.get('bytes')}")
    if digest != shard.get("sha256"):
        yield Problem(path.name, None, f"has SHA-256 {digest}; expected {shard.get('sha256')}")


def _check_records(path, rows, recipe, label_scheme):
    """Yields what is wrong with number, order, frames and contents of the records."""
    try:
        recipe = Recipe.from_json(recipe)
    except (InputError, TypeError, ValueError) as error:
        yield Problem(path.name, None, f"its records are not checked: {error}")
        return
    expected = {row["case_id"]: row for row in rows}
    places, seen, named = list(expected), [], set()
    for index, (payload, damage) in enumerate(records(path)):
        place = places[index] if index < len(places) else None
        case_id = record_check.case_id_of(payload)
        if damage:
            # The id in a damaged payload counts only if it is one of this shard's.
            case_id = case_id if case_id in expected else place
            named.add(case_id)
            yield Problem(path.name, case_id, f"record {index}: {damage}")
        elif case_id is None:
            named.add(place)
            yield Problem(path.name, place, f"record {index}: is no record of a case")
        elif case_id not in expected:
            yield Problem(
                path.name,
                case_id,
                f"its record is number {index} here, where {place or 'nothing'} is expected",
            )
        elif case_id in seen:
            yield Problem(path.name, case_id, "its record is here more than once")
        else:
            seen.append(case_id)
            yield from record_check.check_record(
                path.name, payload, expected[case_id], recipe, label_scheme
            )
    for case_id in places:
        if case_id not in named and case_id not in seen:
            yield Problem(
                path.name, case_id, "its record is missing, or cannot be found behind a damaged one"
            )
    if seen != [case_id for case_id in places if case_id in seen]:
        yield Problem(
            path.name,
            None,
            f"holds its records in the order {', '.join(seen)}; expected {', '.join(places)}",
        )


def records(path):
    """Yields (payload, what is wrong with its frame or None) as long as there are frames."""
    try:
        for framed in tfrecord.framed_records(path):
            payload = framed[tfrecord.HEADER_BYTES : -tfrecord.FOOTER_BYTES]
            checksum = int.from_bytes(framed[-tfrecord.FOOTER_BYTES :], "little")
            fits = checksum == tfrecord.masked_crc(payload)
            yield payload, None if fits else "its data do not fit their checksum"
    except tfrecord.DamagedRecord as error:
        yield b"", error.what
