"""Reads a finished dataset again and checks every byte of it.

`verify_manifest` checks the manifest and the folder, `verify_shards` each shard, and
`verify_records` each record. With the cohort, this module also converts some cases again and
compares them with their records bit for bit.
"""

import collections
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from brats_tfrecord import __version__, spec
from brats_tfrecord.cohort import layouts
from brats_tfrecord.cohort.case import Case
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import (
    manifest,
    shards,
    tfrecord,
    verify_manifest,
    verify_records,
    verify_shards,
)
from brats_tfrecord.records import task as tasks
from brats_tfrecord.records.pool import Workers, open_pool
from brats_tfrecord.records.verify_manifest import Problem
from brats_tfrecord.records.verify_shards import ShardToVerify

_SET_BY_SHARD = ("fold", "shard", "record_offset", "key")
"""Fields of a `CaseRow` that are not compared with a fresh conversion."""


def verify(
    root: Path | str,
    input_dir: Path | str | None = None,
    sample: int = 3,
    workers: Workers | None = None,
) -> list[Problem]:
    """Checks the dataset in `root`; prints a progress bar.

    Args:
        root: folder of a finished dataset.
        input_dir: the cohort that was converted. If it is given, every case must be in it, and
            some cases are converted again and compared bit for bit.
        sample: number of these cases, 1 or more, spread evenly over the dataset.
        workers: the worker processes; None is one per core.

    Returns:
        the problems, sorted by file; empty if the dataset is sound.

    Raises:
        InputError: `root` holds no finished dataset, or one of an earlier schema, or `input_dir`
            holds no cohort.
    """
    # Workers on other machines do not share the working directory of this process.
    root = Path(os.path.abspath(root))
    value, problems = verify_manifest.read_manifest(root)
    shard_tasks, cases = _shard_tasks(root, value), []
    if value:
        problems += verify_manifest.check_manifest(value)
        problems += verify_manifest.check_folder(root, value)
    if value and input_dir is not None:
        cases, missing = _case_tasks(root, value, Path(os.path.abspath(input_dir)), sample)
        problems += missing
    failures: list[dict[str, Any]] = []
    with open_pool((workers or Workers()).for_tasks(len(shard_tasks) + len(cases))) as run:
        results = run(verify_shards.verify_shard, shard_tasks)
        for shard_problems, shard_failures in _progress(results, len(shard_tasks), "shard"):
            problems += shard_problems
            failures += shard_failures
        for case_problems in _progress(run(verify_case, cases), len(cases), "case"):
            problems += case_problems
    if value:
        problems += verify_manifest.check_failures(value["failures"], failures)
    return sorted(problems, key=lambda problem: (problem.file, problem.case_id or ""))


@dataclass(frozen=True)
class CaseToVerify:
    """A case to convert again.

    Attributes:
        root: folder of the dataset.
        input_dir: folder of the cohort.
        case: the case in the cohort.
        row: its entry in `dataset.json`, a JSON value.
        settings: settings with the recipe and versions of the dataset.
    """

    root: Path
    input_dir: Path
    case: Case
    row: dict[str, Any]
    settings: tasks.Settings


def verify_case(task: CaseToVerify) -> list[Problem]:
    """Converts a case again and compares the result with its record; runs in a worker."""
    case_id = task.case.case_id
    try:
        inputs = tasks.hash_inputs(task.case)
    except InputError as error:
        return [Problem(str(task.input_dir), case_id, f"cannot be read again: {error}")]
    changed = list(_changed_inputs(task, inputs))
    if changed:
        return changed
    try:
        fresh, payload = tasks.make_record(task.case, task.settings, inputs)
    except InputError as error:
        return [Problem(str(task.input_dir), case_id, f"cannot be converted again: {error}")]
    problems = []
    listed = json.loads(json.dumps(dataclasses.asdict(manifest.row_from_json(task.row))))
    for key, value in json.loads(json.dumps(dataclasses.asdict(fresh))).items():
        if key not in _SET_BY_SHARD and listed[key] != value:
            text = f"{key} is {listed[key]}, a fresh conversion gives {value}"
            problems.append(Problem(manifest.FILE_NAME, case_id, text))
    try:
        stored = tfrecord.read_payload(
            task.root / task.row["shard"], task.row["record_offset"], task.row["record_bytes"]
        )
    except (OSError, ValueError):  # `verify_shards` names the damage
        stored = b""
    if stored != payload:
        features = ", ".join(verify_records.differing_features(stored, payload)) or "its encoding"
        versions = _other_versions(task.settings.versions)
        reason = (
            f"other versions are installed: {versions}"
            if versions
            else "the versions are the same: damaged, or converted on another kind of CPU"
        )
        text = f"a fresh conversion differs in {features}; {reason}"
        problems.append(Problem(task.row["shard"], case_id, text))
    return problems


def _changed_inputs(task, inputs):
    """Yields a problem for each input file that has another hash than in the manifest."""
    paths = {**task.case.images, "seg": task.case.mask}
    for name in sorted(inputs.keys() | task.row["inputs"].keys()):
        if inputs.get(name) != task.row["inputs"].get(name):
            path = paths.get(name)
            file = str(Path(path).relative_to(task.input_dir)) if path else name
            text = "is not the file that was converted: its SHA-256 differs"
            yield Problem(file, task.case.case_id, text)


def _other_versions(versions):
    """Lists the packages whose installed version differs from `versions`, in words."""
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


def _progress(results: Iterable, total: int, unit: str) -> Iterator:
    return tqdm(
        results, total=total, unit=unit, desc="verifying", dynamic_ncols=True, disable=not total
    )


def _shard_tasks(root, value):
    """Returns a task for every shard in the manifest; for every file if the manifest is {}."""
    if not value:
        names = sorted(path.name for path in root.glob("*.tfrecord"))
        return [ShardToVerify(root, name) for name in names if shards.parse_shard_name(name)]
    rows = collections.defaultdict(list)
    for row in value["cases"]:
        rows[row["shard"]].append(row)
    scheme = value["label_scheme"] if value["label_scheme"] in spec.LABEL_SCHEMES else None
    return [
        ShardToVerify(root, shard["name"], shard, rows[shard["name"]], value["recipe"], scheme)
        for shard in value["shards"]
    ]


def _case_tasks(root, value, input_dir, sample):
    """Returns a list of `CaseToVerify`, and the problems: cases that are not in `input_dir`."""
    cases = {
        case.case_id: case
        for case in layouts.find_cases(input_dir, value["layout"], value["label_scheme"])
    }
    settings = tasks.Settings(
        Recipe.from_json(value["recipe"]), value["how_to_read"], value["versions"]
    )
    problems = [
        Problem(str(input_dir), row["case_id"], "is missing, but in the dataset")
        for row in value["cases"]
        if row["case_id"] not in cases
    ]
    rows = [row for row in value["cases"] if row["case_id"] in cases]
    count = min(sample, len(rows))
    chosen = [rows[k * len(rows) // count] for k in range(count)]
    return [
        CaseToVerify(root, input_dir, cases[row["case_id"]], row, settings) for row in chosen
    ], problems
