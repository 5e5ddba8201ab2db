"""Re-reads a finished dataset and proves every byte of it, trusting nothing that it says.

`manifest_check` proves the manifest and the folder, `shard_check` each shard, `record_check` each
record, `fresh_check` a record against its input; here they are set to work.
"""

import collections
import os
from pathlib import Path

from tqdm import tqdm

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import manifest_check, shards
from brats_tfrecord.records.fresh_check import CaseToCheck, check_case
from brats_tfrecord.records.pool import Workers, open_pool
from brats_tfrecord.records.record_check import Problem
from brats_tfrecord.records.shard_check import ShardToCheck, check_shard
from brats_tfrecord.records.task import Settings


def verify(root, input_dir=None, sample=3, workers=None):
    """Proves the dataset in `root`; prints a progress bar.

    Args:
        root: a finished dataset's folder.
        input_dir: the cohort it was made from; with it, every case is looked for there, and some
            are converted afresh and compared bit for bit.
        sample: how many, spread evenly over the dataset; 1 or more.
        workers: `pool.Workers`; by default one a core.

    Returns:
        list of `Problem`, sorted by file; empty if all is well.

    Raises:
        InputError: `root` holds no finished dataset, or `input_dir` no cohort.
    """
    # Workers on other machines know neither this process's folder nor its relative paths.
    root = Path(os.path.abspath(root))
    value, problems = manifest_check.read_manifest(root)
    tasks, cases, failures = _shard_tasks(root, value), [], []
    if value:
        problems += [
            *manifest_check.check_manifest(value),
            *manifest_check.check_folder(root, value),
        ]
    if value and input_dir is not None:
        cases, missing = _case_tasks(root, value, Path(os.path.abspath(input_dir)), sample)
        problems += missing
    with open_pool((workers or Workers()).for_tasks(len(tasks) + len(cases))) as run:
        for report in _progress(run(check_shard, tasks), len(tasks), "shard"):
            problems += report.problems
            failures += report.failures
        for found in _progress(run(check_case, cases), len(cases), "case"):
            problems += found
    if value:
        problems += manifest_check.check_failures(value["failures"], failures)
    return sorted(problems, key=lambda problem: (problem.file, problem.case_id or ""))


def _progress(results, total, unit):
    return tqdm(
        results, total=total, unit=unit, desc="verifying", dynamic_ncols=True, disable=not total
    )


def _shard_tasks(root, value):
    """A `ShardToCheck` for every shard that is listed; for every file, if none can be."""
    if not value:
        names = sorted(
            {path.name for path in root.glob("*.tfrecord") if shards.parse_shard_name(path.name)}
        )
        return [ShardToCheck(root, name, None, None, None, None) for name in names]
    rows = collections.defaultdict(list)
    for row in value["cases"]:
        rows[row["shard"]].append(row)
    scheme = value["label_scheme"] if value["label_scheme"] in spec.LABEL_SCHEMES else None
    return [
        ShardToCheck(root, shard["name"], shard, rows[shard["name"]], value["recipe"], scheme)
        for shard in value["shards"]
    ]


def _case_tasks(root, value, input_dir, sample):
    """(list of `CaseToCheck`, problems: cases that are not in `input_dir`)."""
    cases = {
        case.case_id: case
        for case in layouts.find_cases(input_dir, value["layout"], value["label_scheme"])
    }
    settings = Settings(
        Recipe.from_json(value["recipe"]), value["how_to_read"], value["versions"], None
    )
    problems = [
        Problem(str(input_dir), row["case_id"], "is not there, but in the dataset")
        for row in value["cases"]
        if row["case_id"] not in cases
    ]
    places, counts = [], collections.Counter()
    for row in value["cases"]:
        if row["case_id"] in cases:
            places.append((row, counts[row["shard"]]))
        counts[row["shard"]] += 1
    chosen = min(sample, len(places))
    return [
        CaseToCheck(root, input_dir, cases[row["case_id"]], row, index, settings)
        for row, index in (places[k * len(places) // chosen] for k in range(chosen))
    ], problems
