"""Proves a stored record against its input: a fresh conversion, compared bit for bit."""

import dataclasses
import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from brats_tfrecord import __version__
from brats_tfrecord.cohort.case import Case
from brats_tfrecord.errors import InputError
from brats_tfrecord.records import manifest, record_check, task
from brats_tfrecord.records.record_check import Problem
from brats_tfrecord.records.shard_check import records


@dataclass(frozen=True)
class CaseToCheck:
    """A stored case to convert afresh.

    Attributes:
        root, input_dir: the folders of dataset and cohort.
        case: `Case`.
        row: its row of `dataset.json`, a JSON value.
        index: place of its record in the shard.
        settings: `task.Settings`, with the recipe and versions of the dataset.
    """

    root: Path
    input_dir: Path
    case: Case
    row: dict
    index: int
    settings: task.Settings


def check_case(check):
    """Converts one case afresh and compares bit for bit; runs in a worker.

    Args:
        check: `CaseToCheck`.

    Returns:
        list of `Problem`.
    """
    case_id, row = check.case.case_id, check.row
    try:
        inputs = task.hash_inputs(check.case)
    except InputError as error:
        return [Problem(str(check.input_dir), case_id, f"cannot be read again: {error}")]
    paths = dict(check.case.images) | {"seg": check.case.mask}
    changed = [
        Problem(
            _relative(paths.get(name), check.input_dir) or name,
            case_id,
            "is not the file that was converted: its SHA-256 differs",
        )
        for name in sorted(inputs.keys() | row["inputs"].keys())
        if inputs.get(name) != row["inputs"].get(name)
    ]
    if changed:
        return changed
    try:
        fresh, payload = task.make_record(check.case, check.settings, inputs)
    except InputError as error:
        return [Problem(str(check.input_dir), case_id, f"cannot be converted again: {error}")]
    problems = []
    for key, value in json.loads(json.dumps(dataclasses.asdict(fresh))).items():
        if key not in ("fold", "shard", "key") and row.get(key) != value:
            problems.append(
                Problem(
                    manifest.FILE_NAME,
                    case_id,
                    f"{key} is {row.get(key)}, a fresh conversion gives {value}",
                )
            )
    stored = next(
        (
            payload
            for index, (payload, _) in enumerate(records(check.root / row["shard"]))
            if index == check.index
        ),
        b"",
    )
    if stored != payload:
        parts = ", ".join(record_check.differing(stored, payload)) or "its encoding"
        other = _other_versions(check.settings.versions)
        reason = (
            f"other versions are installed: {other}"
            if other
            else "the versions are the same: damaged, or converted on another kind of CPU"
        )
        problems.append(
            Problem(row["shard"], case_id, f"a fresh conversion differs in {parts}; {reason}")
        )
    return problems


def _relative(path, root):
    return None if path is None else str(Path(path).relative_to(root))


def _other_versions(versions):
    """What is installed in another version than `versions` say, in words; "" if nothing."""
    installed = {"brats-tfrecord": __version__}
    for name in versions.keys() - installed.keys():
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "none"
    return ", ".join(
        f"{name} {installed[name]}, not {version}"
        for name, version in sorted(versions.items())
        if installed[name] != version
    )
