"""Checks the results of an earlier run in the output folder and keeps those that are valid."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from brats_tfrecord import files
from brats_tfrecord.cohort.case import Case
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess.recipe import complete
from brats_tfrecord.records import manifest, shards, work_folder
from brats_tfrecord.records.pool import Run
from brats_tfrecord.records.task import Settings, ShardTask, find_current_cases, open_shard

HEAD = "head.json"
"""File in the work folder with the `manifest.Head` of the conversion."""


def check(root: Path, plans: Sequence[shards.ShardPlan], head: manifest.Head) -> None:
    """Refuses an output folder with a dataset that the planned conversion would not resume.

    A manifest that is unreadable after a crash is not refused; it is written again.

    Args:
        root: the output folder.
        plans: the planned shards.
        head: the head of the planned manifest.

    Raises:
        InputError: `root` is a file, or holds a dataset, finished or not, of other options, cases
            or versions, or of another schema.
    """
    if root.exists() and not root.is_dir():
        raise InputError(f"--output_dir={root}: is a file; expected a folder")
    finished = _read(root / manifest.FILE_NAME)
    begun = _read(root / work_folder.NAME / HEAD)
    manifest.require_schema(
        f"--output_dir={root}", (finished or begun).get("schema", manifest.SCHEMA)
    )
    try:
        if finished:
            kind, differences = "another dataset", _differences(finished, plans, head)
        else:
            kind, differences = "an unfinished conversion with other options", _changes(begun, head)
    except (LookupError, TypeError, AttributeError):  # damaged: `keep` checks all hashes
        return
    if differences:
        raise InputError(
            f"--output_dir={root}: already holds {kind}: {'; '.join(differences)}; "
            "give the options it was begun with, name another folder, or remove this one"
        )


def remember(work: work_folder.WorkFolder, head: manifest.Head) -> None:
    """Writes the head of the planned manifest to the work folder."""
    files.write_json(work.path / HEAD, head.to_json())


def keep(
    work: work_folder.WorkFolder,
    root: Path,
    plans: Sequence[shards.ShardPlan],
    cases: Mapping[str, Case],
    settings: Settings,
    run: Run,
) -> set[str]:
    """Keeps the shards of an earlier run that this run would write again with the same bytes.

    Every input file and every shard is hashed. If some cases of a shard have changed, the records
    of the others are moved to the work folder, and the shard is removed.

    Args:
        work: the work folder.
        root: the output folder.
        plans: the planned shards.
        cases: case id -> case.
        settings: the settings of the conversion.
        run: function from `pool.open_pool`.

    Returns:
        the names of the shards that were kept.
    """
    tasks = {
        path.name: ShardTask(path, _cases_of(path, cases), settings, work)
        for path in sorted(root.glob("*.tfrecord"))
        if shards.parse_shard_name(path.name)
    }
    if not tasks:
        _remove_manifest(root)
        return set()
    current = dict(
        tqdm(
            run(find_current_cases, tasks.values()),
            total=len(tasks),
            unit="shard",
            desc="checking existing shards",
            dynamic_ncols=True,
            leave=False,
        )
    )
    planned = {plan.name: plan.case_ids for plan in plans}
    whole = {name for name, case_ids in current.items() if case_ids == planned.get(name)}
    if whole != planned.keys():
        _remove_manifest(root)
        _print_lost(tasks, current)
    for name in tasks.keys() - whole:
        open_shard(tasks[name], current[name])
    print(
        f"Kept from an earlier run: {sum(map(len, current.values()))} cases in "
        f"{len(current)} shards, whose files and records have the same hashes as before",
        flush=True,
    )
    return whole


def _read(path):
    """Reads the JSON object at `path`; {} if it cannot be read."""
    try:
        value = files.read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _changes(begun, head):
    """Lists the differences that change the bytes of records; folds and shards do not."""
    wanted, differences = head.to_json(), []
    for name in ("recipe", "versions", "how_to_read"):
        ours, theirs = wanted[name], begun.get(name) or {}
        if name == "recipe" and isinstance(theirs, dict) and theirs:
            ours, theirs = complete(ours), complete(theirs)
        differences += [
            f"{key} is {theirs[key]}, now {ours.get(key, False)}"
            for key in sorted(theirs)
            if ours.get(key) != theirs[key]
        ]
    if begun.get("label_scheme", wanted["label_scheme"]) != wanted["label_scheme"]:
        differences.append(f"label_scheme is {begun['label_scheme']}, now {wanted['label_scheme']}")
    return differences


def _differences(finished, plans, head):
    """Lists the differences between a finished manifest and the planned dataset."""
    differences = _changes(finished, head)
    differences += [
        f"{name} is {finished.get(name)}, now {value}"
        for name, value in (("folds", head.folds), ("seed", head.seed))
        if finished.get(name) != value
    ]
    if not {"cases", "failures", "shards"} <= finished.keys():
        return differences
    existing = {row["case_id"] for row in (*finished["cases"], *finished["failures"])}
    planned = {case_id for plan in plans for case_id in plan.case_ids}
    for what, ids in (
        ("the cohort has new cases", planned - existing),
        ("the cohort lacks cases", existing - planned),
    ):
        if ids:
            differences.append(
                f"{what}: {', '.join(sorted(ids)[:3])}"
                + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
            )
    if not differences and [row["name"] for row in finished["shards"]] != [p.name for p in plans]:
        differences.append("its cases are in other shards (--cases_per_shard)")
    return differences


def _print_lost(tasks, current):
    """Prints the cases whose records cannot be kept."""
    lost = sorted(
        case_id
        for name, task in tasks.items()
        for case_id in task.cases.keys() - set(current[name])
    )
    if lost:
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        print(
            f"Converted again, because their files or their shards have changed: "
            f"{', '.join(lost[:5])}{more}",
            flush=True,
        )


def _cases_of(path, cases):
    """Returns the cases of a shard's sidecar that are still in the cohort."""
    try:
        rows = files.read_json(path.with_suffix(".json"))["cases"]
        return {row["case_id"]: cases[row["case_id"]] for row in rows if row["case_id"] in cases}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _remove_manifest(root):
    """Removes the manifest, so that the folder is not a finished dataset until the end."""
    (root / manifest.FILE_NAME).unlink(missing_ok=True)
