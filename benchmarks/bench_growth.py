"""Measures the memory of conversions of growing cohorts: many tiny cases, two workers.

Usage:
  python benchmarks/bench_growth.py
  python benchmarks/bench_growth.py --cases=100,1000,10000,100000

Prints a table of seconds per case and peak memory of the parent and of its largest worker. The last
line is one JSON object, whose ratio is the peak of the smallest cohort divided by that of the
largest; 1 means that memory does not grow. The cases are one phantom of 40x40x40 voxels under many
names, without bias correction.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from brats_tfrecord import spec
from brats_tfrecord.phantom import generate

TOOL = Path(__file__).parents[1] / "tools" / "convert_to_tfrecord.py"
FLAGS = ("--jobs=2", "--crop=brain", "--crop_window=0:16,0:16,0:12", "--bias_correction=none")


def main():
    """Measures cohorts of the given sizes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="100,1000,10000", help="sizes, smallest first")
    sizes = [int(size) for size in parser.parse_args().cases.split(",")]
    print(f"{'cases':>7} {'s/case':>9} {'parent MB':>10} {'worker MB':>10}")
    peaks = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_cohort(Path(folder), size)
            seconds, *peaks[size] = watch(convert(Path(folder)))
        parent, worker = peaks[size]
        print(f"{size:7} {seconds / size:9.4f} {parent:10.0f} {worker:10.0f}", flush=True)
    print(
        json.dumps(
            {
                "name": "growth",
                "unit": "MB parent",
                "ours": peaks[sizes[-1]][0],
                "peers": {f"{sizes[0]} cases": peaks[sizes[0]][0]},
                "ratio": min(few / many for few, many in zip(peaks[sizes[0]], peaks[sizes[-1]])),
            }
        )
    )


def write_cohort(folder, size):
    """Writes `size` cases to folder/in; they are links to the files of one case."""
    generate.write_cohort(folder / "phantom", cases=1, seed=0, shape=(40, 40, 40))
    [source] = (folder / "phantom").iterdir()
    for index in range(size):
        name = f"BraTS20_Training_{index:06d}"
        case = folder / "in" / name
        case.mkdir(parents=True)
        for kind in (*spec.MODALITIES, "seg"):
            (case / f"{name}_{kind}.nii.gz").symlink_to(source / f"{source.name}_{kind}.nii.gz")


def convert(folder):
    """Starts the conversion of folder/in; returns the process."""
    return subprocess.Popen(
        [
            sys.executable,
            TOOL,
            f"--input_dir={folder / 'in'}",
            f"--output_dir={folder / 'out'}",
            *FLAGS,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def watch(process):
    """Waits for a process; returns its seconds and the peak MB of it and its largest worker."""
    began, peaks, parent = time.perf_counter(), [0, 0], psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peaks[0] = max(peaks[0], parent.memory_info().rss)
            peaks[1] = max([peaks[1], *(child.memory_info().rss for child in parent.children())])
        except psutil.Error:
            pass  # it has ended in the meantime
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"the conversion failed with exit code {process.returncode}")
    return time.perf_counter() - began, peaks[0] / 1e6, peaks[1] / 1e6


if __name__ == "__main__":
    main()
