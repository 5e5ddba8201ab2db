"""Compares the conversion with the documented recipe, two jobs with one, and measures memory.

Usage:
  python benchmarks/bench_convert.py
  python benchmarks/bench_convert.py --parts=patient --input_dir=cohort   # its first case
  python benchmarks/bench_convert.py --parts=jobs,memory --phantoms=8 --cohort_dir=build/phantoms

patient: one case on one core, from NIfTI files to a finished record file (the median of five runs),
compared with the documented recipe written out with ANTsPy and NumPy: read, mask, N4, crop,
z-score, one-hot mask, without writing. Ours runs once before each modality of the peer and once at
the end.
jobs: the command line tool on a cohort of phantoms with one job and two in turn; cases per second
from the time when every worker has finished a shard.
memory: peak resident memory of the processes of a conversion with two jobs, from /proc.

Each part prints one JSON object; `patient` is the last one.
"""

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts
from brats_tfrecord.errors import InputError
from brats_tfrecord.phantom import generate
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import pool, task
from brats_tfrecord.records.work_folder import WorkFolder

TOOL = Path(__file__).parents[1] / "tools" / "convert_to_tfrecord.py"
WINDOW = (slice(48, 192), slice(48, 192), slice(5, 149))
MEMORY_LIMIT_MB = 1200
ROUNDS = 2
STAGES = {
    "hash_inputs": "input hashes",
    "read_case": "read and check",
    "correct": "bias correction",
    "network_input": "crop and z-score",
    "put": "write",
}
"""Function of the conversion -> name of the stage that it measures."""


def main():
    """Runs the chosen parts; returns the exit code."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="bench_convert-") as scratch:
        if {"memory", "jobs"} & set(options.parts):
            cohort = make_cohort(
                options.cohort_dir or Path(scratch) / "cohort",
                options.phantoms,
                options.phantom_shape,
            )
        if "memory" in options.parts:
            bench_memory(cohort, Path(scratch))
        if "jobs" in options.parts:
            bench_jobs(cohort, Path(scratch))
        if "patient" in options.parts:
            bench_patient(options.input_dir, options.phantom_shape, Path(scratch))
    return 0


def parse_arguments():
    """Parses the command line; a wrong value exits with code 2."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--parts",
        default="memory,jobs,patient",
        type=parts_of,
        help="comma-separated, of memory, jobs, patient",
    )
    parser.add_argument(
        "--input_dir", help="cohort whose first case is the patient; a phantom if not given"
    )
    parser.add_argument(
        "--cohort_dir",
        type=Path,
        help="folder of the phantoms of jobs and memory, which are written if it is empty; a "
        "temporary one if not given",
    )
    parser.add_argument("--phantoms", type=int, default=32, help="cases of that cohort")
    parser.add_argument(
        "--phantom_shape",
        type=shape_of,
        default=spec.BRATS_GRID,
        help="voxels x,y,z of the phantoms; smaller ones are only for a trial run",
    )
    return parser.parse_args()


def parts_of(text):
    """Parses comma-separated names of parts."""
    chosen = tuple(text.split(","))
    if not set(chosen) <= {"memory", "jobs", "patient"}:
        raise argparse.ArgumentTypeError(
            f"{text!r}; expected memory, jobs, patient or some of them"
        )
    return chosen


def shape_of(text):
    """Parses three whole numbers "x,y,z"."""
    shape = tuple(int(extent) for extent in text.split(","))
    if len(shape) != 3:
        raise ValueError
    return shape


def make_cohort(root, cases, shape):
    """Writes a cohort of `cases` phantoms to `root` unless it has files; returns `root`."""
    if root.is_dir() and any(root.iterdir()):
        return root
    print(f"making {cases} phantoms", flush=True)
    generate.write_cohort(root, cases, seed=0, shape=shape, jobs=os.cpu_count() or 1)
    return root


def bench_patient(input_dir, shape, scratch):
    """Compares ours with the documented recipe on one case and one core."""
    if input_dir is None:
        input_dir = make_cohort(scratch / "patient", 1, shape)
    case = layouts.find_cases(input_dir)[0]
    every_core = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(every_core)})
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    import ants  # not timed, as the import of ours is not

    pool.prepare_worker()

    profile = cProfile.Profile()
    profile.runcall(convert_once, case, scratch)  # also fills the file cache for both
    ours, stages = [], stage_seconds(profile)
    theirs, mask_seconds = 0.0, 0.0
    for modality in spec.MODALITIES:
        ours.append(timed(convert_once, case, scratch))
        seconds, of_mask = documented_image(ants, case.image(modality))
        theirs, mask_seconds = theirs + seconds, mask_seconds + of_mask
    if case.mask is not None:
        theirs += timed(documented_mask, ants, case.mask)
    ours.append(timed(convert_once, case, scratch))
    os.sched_setaffinity(0, every_core)
    median = float(np.median(ours))
    print(
        f"{case.case_id}, one core: ours {median:.2f} s (from {min(ours):.2f} to {max(ours):.2f}), "
        f"documented recipe {theirs:.1f} s ({mask_seconds:.1f} s of it get_mask): "
        f"{theirs / median:.1f} times"
    )
    print(
        "stages of ours, one run: "
        + ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in stages.items())
    )
    print_result(
        "convert one patient", "s", median, {"documented recipe in ANTsPy": theirs}, theirs / median
    )


def convert_once(case, scratch):
    """Converts one case to a finished record file, as a worker does."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        work = WorkFolder(folder)
        work.clear_marks()
        settings = task.Settings(Recipe(), {}, {})
        outcome = task.convert_case(task.CaseTask(case, settings, work))
    if outcome.reason:
        raise InputError(outcome.reason)


def documented_image(ants, path):
    """Processes a modality by the documented recipe; returns its seconds and those of the mask."""
    began = time.perf_counter()
    image = ants.image_read(str(path))
    before_mask = time.perf_counter()
    mask = ants.get_mask(image)
    of_mask = time.perf_counter() - before_mask
    window = ants.n4_bias_field_correction(image, mask=mask).numpy()[WINDOW]
    ((window - window.mean()) / window.std()).astype(np.float16)
    return time.perf_counter() - began, of_mask


def documented_mask(ants, path):
    """Processes the mask by the documented recipe: 4 becomes 3, cropped, one-hot."""
    labels = ants.image_read(str(path)).numpy().astype(np.uint8)
    labels[labels == 4] = 3
    return np.eye(4, dtype=np.uint8)[labels[WINDOW]]


def timed(function, *arguments):
    """Returns the seconds of one call."""
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def stage_seconds(profile):
    """Returns stage -> seconds of a profiled conversion; "rest" is the time outside of stages."""
    seconds = {
        name: cumulated
        for (_, _, name), (_, _, _, cumulated, _) in pstats.Stats(profile).stats.items()
        if name in (*STAGES, "convert_case")
    }
    stages = {stage: seconds[name] for name, stage in STAGES.items()}
    return stages | {"rest": seconds["convert_case"] - sum(stages.values())}


def bench_jobs(cohort, scratch):
    """Compares two jobs with one, in turn; uses the median of the rounds."""
    rates = {1: [], 2: []}
    for number in range(ROUNDS):
        for jobs in (1, 2) if number % 2 == 0 else (2, 1):
            out = scratch / f"jobs{jobs}-{number}"
            convert_cohort(cohort, out, jobs)
            rates[jobs].append(finishing_rate(out, jobs))
            print(f"{jobs} job{'s' * (jobs > 1)}: {rates[jobs][-1]:.3f} cases/s", flush=True)
    single, double = (float(np.median(rates[jobs])) for jobs in (1, 2))
    print_result("convert with two jobs", "cases/s", double, {"one job": single}, double / single)


def finishing_rate(root, jobs):
    """Computes cases per second from the times of the sidecars; each shard has one case.

    Time counts from the moment when every worker has finished a case, to exclude their start.
    """
    times = sorted(path.stat().st_mtime_ns for path in root.glob("fold*.json"))
    if len(times) < 3 * jobs:
        raise InputError(
            f"--phantoms={len(times)}: expected at least {3 * jobs}, so that workers "
            "are measured after their start"
        )
    return (len(times) - jobs) / (times[-1] - times[jobs - 1]) * 1e9


def bench_memory(cohort, scratch):
    """Measures peak memory of the parent and of its workers in a conversion with two jobs."""
    parent, workers = convert_cohort(cohort, scratch / "memory", 2)
    print(f"peak resident memory: worker {max(workers)} MB, parent {parent} MB")
    print_result(
        "convert memory of a worker",
        "MB",
        max(workers),
        {"limit": MEMORY_LIMIT_MB},
        MEMORY_LIMIT_MB / max(workers),
    )


def convert_cohort(cohort, out, jobs):
    """Runs the tool with one case per shard; returns peak MB of the parent and of each child."""
    command = [
        sys.executable,
        str(TOOL),
        f"--input_dir={cohort}",
        f"--output_dir={out}",
        f"--jobs={jobs}",
        "--folds=1",
        "--cases_per_shard=1",
    ]
    peaks = {}
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as tool,
    ):
        while tool.poll() is None:
            for pid in family(tool.pid):
                peaks[pid] = max(peak_mb(pid), peaks.get(pid, 0))
            time.sleep(0.2)
        if tool.returncode:
            output.seek(0)
            last = (output.read().strip().splitlines() or ["no output"])[-1]
            raise InputError(f"{TOOL.name} --jobs={jobs} ended with {tool.returncode}: {last}")
    parent = peaks.pop(tool.pid)
    return parent, list(peaks.values()) or [parent]


def family(pid):
    """Lists `pid` and its descendants that are running."""
    members = [pid]
    for member in members:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                members += map(int, children.read_text().split())
            except OSError:  # it has ended in the meantime
                continue
    return members


def peak_mb(pid):
    """Returns the peak resident memory of a process so far in MB (1e6 bytes); 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next(
        (int(line.split()[1]) * 1024 // 10**6 for line in lines if line.startswith("VmHWM")), 0
    )


def print_result(name, unit, ours, peers, ratio):
    """Prints the JSON line of one part."""
    print(
        json.dumps({"name": name, "unit": unit, "ours": ours, "peers": peers, "ratio": ratio}),
        flush=True,
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
