"""What an earlier run left in the output folder: what can be kept, and what cannot."""

from pathlib import Path

from tqdm import tqdm

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.records import manifest, shards, work_folder
from brats_tfrecord.records.task import ShardTask, check_shard, open_shard

HEAD = "head.json"
"""What a conversion was begun with, in its work folder."""


def check(root, plans, head):
    """Refuses a folder whose dataset, finished or not, the planned one would not go on with.

    A manifest that a crash has left unreadable is no reason: it is written anew.

    Args:
        root: the output folder.
        plans: list of `shards.ShardPlan`.
        head: `manifest.Head` of the planned dataset.

    Raises:
        InputError: `root` is a file, or holds a dataset of other options, cases or versions.
    """
    if root.exists() and not root.is_dir():
        raise InputError(f"--output_dir={root}: is a file; expected a folder")
    finished = _read(root / manifest.FILE_NAME)
    begun = _read(root / work_folder.NAME / HEAD)
    try:
        if finished:
            kind, differences = "another dataset", _differences(finished, plans, head)
        else:
            kind, differences = "an unfinished conversion with other options", _changes(begun, head)
    except (LookupError, TypeError, AttributeError):  # damaged: what stands is proved by its hashes
        return
    if differences:
        raise InputError(
            f"--output_dir={root}: already holds {kind}: {'; '.join(differences)}; "
            "give the options it was begun with, name another folder, or remove this "
            "one"
        )


def remember(work, head):
    """Notes in the work folder what the conversion is begun with."""
    files.write_json(work.path / HEAD, head.to_json())


def keep(root, plans, cases, settings, run):
    """Keeps the shards of an earlier run that are as this one would make them.

    Every input file and every shard is hashed again. Shards that differ in any case are opened:
    their good records go back to the work folder, and the rest is gone.

    Args:
        root: the output folder.
        plans: list of `shards.ShardPlan`.
        cases: case id -> `Case`.
        settings: `task.Settings`.
        run: as from `pool.open_pool`.

    Returns:
        set of the names of the shards that stand.
    """
    tasks = {
        path.name: ShardTask(path, _cases_of(path, cases), settings)
        for path in sorted(root.glob("*.tfrecord"))
        if shards.parse_shard_name(path.name)
    }
    if not tasks:
        _forget_manifest(root)
        return set()
    proven = dict(
        tqdm(
            run(check_shard, tasks.values()),
            total=len(tasks),
            unit="shard",
            desc="checking what is there",
            dynamic_ncols=True,
            leave=False,
        )
    )
    planned = {plan.name: plan.case_ids for plan in plans}
    whole = {name for name, case_ids in proven.items() if case_ids == planned.get(name)}
    if whole != planned.keys():
        _forget_manifest(root)
        _name_lost(tasks, proven)
    for name in tasks.keys() - whole:
        open_shard(tasks[name], proven[name])
    print(
        f"Kept from an earlier run: {sum(map(len, proven.values()))} cases in "
        f"{len(proven)} shards, proved by the hashes of their files and of their records",
        flush=True,
    )
    return whole


def _read(path):
    """The JSON object at `path`; {} if there is none that can be read."""
    try:
        value = files.read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _changes(begun, head):
    """What differs in all that decides the bytes of a record; folds and shards may change."""
    wanted, differences = head.to_json(), []
    for name in ("recipe", "versions", "how_to_read"):
        ours, theirs = wanted[name], begun.get(name) or {}
        differences += [
            f"{key} is {theirs[key]}, now {ours.get(key)}"
            for key in sorted(theirs)
            if ours.get(key) != theirs[key]
        ]
    differences += [
        f"{name} is {begun[name]}, now {wanted[name]}"
        for name in ("schema", "label_scheme")
        if begun.get(name, wanted[name]) != wanted[name]
    ]
    return differences


def _differences(found, plans, head):
    differences = _changes(found, head)
    differences += [
        f"{name} is {found.get(name)}, now {value}"
        for name, value in (("folds", head.folds), ("seed", head.seed))
        if found.get(name) != value
    ]
    if not {"cases", "failures", "shards"} <= found.keys():
        return differences
    there = {row["case_id"] for row in (*found["cases"], *found["failures"])}
    planned = {case_id for plan in plans for case_id in plan.case_ids}
    for what, ids in (
        ("the cohort has new cases", planned - there),
        ("the cohort lacks cases", there - planned),
    ):
        if ids:
            differences.append(
                f"{what}: {', '.join(sorted(ids)[:3])}"
                + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
            )
    if not differences and [row["name"] for row in found["shards"]] != [p.name for p in plans]:
        differences.append("its cases are dealt to other shards (--cases_per_shard)")
    return differences


def _name_lost(tasks, proven):
    """Says which cases are there and cannot be kept."""
    lost = sorted(
        case_id for name, task in tasks.items() for case_id in task.cases.keys() - set(proven[name])
    )
    if lost:
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        print(
            f"Converted again, for their files or their shards have changed: "
            f"{', '.join(lost[:5])}{more}",
            flush=True,
        )


def _cases_of(path, cases):
    """The cases that a shard's sidecar speaks of, as far as they are still there."""
    try:
        rows = files.read_json(path.with_suffix(".json"))["cases"]
        return {row["case_id"]: cases[row["case_id"]] for row in rows if row["case_id"] in cases}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _forget_manifest(root):
    """From here on the folder holds no finished dataset, until the manifest is written anew."""
    (Path(root) / manifest.FILE_NAME).unlink(missing_ok=True)
