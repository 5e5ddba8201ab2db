"""Tiny cases that are quick to convert, and functions that watch a running conversion."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import psutil

from brats_tfrecord import files, spec

ROOT = Path(__file__).parents[1]
AFFINE = np.array([[-1.0, 0, 0, 12], [0, -1, 0, 9], [0, 0, 1, -7], [0, 0, 0, 1]])
TINY_SHAPE = (24, 20, 16)
TINY_FLAGS = ("--folds=3", "--cases_per_shard=2", "--crop_window=0:16,0:16,0:12", "--crop=brain")


def write_tiny_case(root, index, shape=TINY_SHAPE):
    """Writes a case with an ellipsoid brain and a nested tumour of all classes.

    Returns the folder. The intensities differ between cases.
    """
    rng = np.random.default_rng(index)
    grid = np.indices(shape).transpose(1, 2, 3, 0) - (np.array(shape) - 1) / 2
    radius = np.sqrt(((grid / (0.4 * np.array(shape))) ** 2).sum(axis=-1))
    name = f"BraTS20_Training_{index:03d}"
    folder = Path(root) / name
    folder.mkdir(parents=True)
    mask = np.select([radius < 0.2, radius < 0.35, radius < 0.5], [1, 4, 2]).astype(np.uint8)
    for kind in spec.MODALITIES:
        volume = np.where(radius < 1, rng.integers(100, 900, shape), 0).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, AFFINE), folder / f"{name}_{kind}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask, AFFINE), folder / f"{name}_seg.nii.gz")
    return folder


def listing(root):
    """Returns relative path -> SHA-256 of every file below `root`, including hidden files."""
    return {
        path.relative_to(root).as_posix(): files.sha256(path)
        for path in sorted(Path(root).rglob("*"))
        if path.is_file()
    }


def start_conversion(*flags):
    """Starts convert_to_tfrecord.py with pipes for its output; returns the process."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "convert_to_tfrecord.py"), *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def wait_for(condition, seconds=60):
    """Waits until `condition()` is true and returns its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.005)
    raise AssertionError(f"the condition is not true after {seconds} s")


def workers_of(process):
    """Returns the worker processes of a running conversion, as `psutil.Process`."""
    workers = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # the child may have ended
            command = " ".join(child.cmdline())
            if "loky" in command and "resource_tracker" not in command:
                workers.append(child)
    return workers
