"""What an earlier run left in the output folder: what can be kept, and what cannot."""

import json
from pathlib import Path

from tqdm import tqdm

from brats_tfrecord.errors import InputError
from brats_tfrecord.records import manifest, shards
from brats_tfrecord.records.task import ShardTask, check_shard, open_shard


def check_finished(root, plans, head):
    """Refuses a folder with a finished dataset that the planned one would not go on with.

    Args:
        root: the output folder.
        plans: list of `shards.ShardPlan`.
        head: `manifest.Head` of the planned dataset.

    Raises:
        InputError: `root` is a file, or holds a dataset of other options, cases or versions.
    """
    if root.exists() and not root.is_dir():
        raise InputError(f"--output_dir={root}: is a file; expected a folder")
    path = root / manifest.FILE_NAME
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text())
        differences = _differences(found, plans, head)
    except (ValueError, KeyError, TypeError, AttributeError):
        differences = [f"{manifest.FILE_NAME} cannot be read as this version writes it"]
    if differences:
        raise InputError(f"--output_dir={root}: already holds another dataset: "
                         f"{'; '.join(differences)}; name another folder, or remove this one")


def keep(root, plans, cases, settings, run):
    """Keeps the shards of an earlier run that are as this one would make them.

    Every input file and every shard is hashed again. Shards that differ in any case are opened:
    their good records go back to the work folder, and the rest is gone.

    Args:
        root: the output folder.
        plans: list of `shards.ShardPlan`.
        cases: case id -> `layouts.Case`.
        settings: `task.Settings`.
        run: as from `pool.open_pool`.

    Returns:
        set of the names of the shards that stand.
    """
    tasks = {path.name: ShardTask(path, _cases_of(path, cases), settings)
             for path in sorted(root.glob("*.tfrecord")) if shards.parse_shard_name(path.name)}
    if not tasks:
        _forget_manifest(root)
        return set()
    proven = dict(tqdm(run(check_shard, tasks.values()), total=len(tasks), unit="shard",
                       desc="checking what is there", dynamic_ncols=True, leave=False))
    planned = {plan.name: plan.case_ids for plan in plans}
    whole = {name for name, case_ids in proven.items() if case_ids == planned.get(name)}
    if whole != planned.keys():
        _forget_manifest(root)
    for name in tasks.keys() - whole:
        open_shard(tasks[name], proven[name])
    print(f"Kept from an earlier run: {sum(map(len, proven.values()))} cases in "
          f"{len(proven)} shards, proved by the hashes of their files and of their records",
          flush=True)
    return whole


def _differences(found, plans, head):
    wanted, differences = head.to_json(), []
    for name in ("recipe", "versions", "how_to_read"):
        ours, theirs = wanted.pop(name), found[name]
        differences += [f"{key} is {theirs.get(key)}, now {ours.get(key)}"
                        for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
    differences += [f"{name} is {found[name]}, now {value}"
                    for name, value in wanted.items() if found[name] != value]
    there = {row["case_id"] for row in (*found["cases"], *found["failures"])}
    planned = {case_id for plan in plans for case_id in plan.case_ids}
    for what, ids in (("the cohort has new cases", planned - there),
                      ("the cohort lacks cases", there - planned)):
        if ids:
            differences.append(f"{what}: {', '.join(sorted(ids)[:3])}"
                               + (f" and {len(ids) - 3} more" if len(ids) > 3 else ""))
    if not differences and [row["name"] for row in found["shards"]] != [p.name for p in plans]:
        differences.append(f"it has {len(found['shards'])} shards, now {len(plans)} "
                           "(--cases_per_shard)")
    return differences


def _cases_of(path, cases):
    """The cases that a shard's sidecar speaks of, as far as they are still there."""
    try:
        rows = json.loads(path.with_suffix(".json").read_text())["cases"]
        return {row["case_id"]: cases[row["case_id"]] for row in rows if row["case_id"] in cases}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _forget_manifest(root):
    """From here on the folder holds no finished dataset, until the manifest is written anew."""
    (Path(root) / manifest.FILE_NAME).unlink(missing_ok=True)
