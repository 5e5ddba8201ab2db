"""Our side: tools/train.py as a user runs it, and `Segmenter` on the native files."""

import csv
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from quality.cases import TOOLS


def train(root: Path, training, settings) -> tuple[int, float, Path]:
    """Trains and exports in a process of its own.

    Returns:
        (number of steps, minutes from the start of the process to its end, path of the SavedModel).

    Raises:
        InputError: the training failed; the message has its last line.
    """
    folder = root / "models" / training.name
    flags = [
        f"--data_dir={root / 'dataset'}",
        "--validation_fold=none",
        f"--test_fold={training.fold}",
        f"--modalities={settings.modalities}",
        f"--seed={training.seed}",
        "--post_processing=none",
        f"--time_budget_minutes={settings.minutes:g}",
        *preset_flags(training.contestant),
        *shlex.split(settings.flags),
    ]
    minutes = run(folder, flags)
    return count_steps(folder), minutes, folder / "saved_model"


def preset_flags(contestant: str) -> list[str]:
    """Returns the flag of ours:PRESET; none for plain `ours`, the tool's defaults."""
    preset = contestant.partition(":")[2]
    return [f"--preset={preset}"] if preset else []


def run(folder: Path, flags) -> float:
    """Runs tools/train.py in an empty folder; returns the minutes it took."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, str(TOOLS / "train.py"), f"--model_dir={folder}", *flags]
    print(shlex.join(command), flush=True)
    started = time.perf_counter()
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    minutes = (time.perf_counter() - started) / 60
    print(done.stderr, flush=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [""]
        raise InputError(f"exit code {done.returncode}: {lines[-1]}")
    return minutes


def history(folder: Path) -> list[dict[str, str]]:
    """Reads the rows of history.csv."""
    with open(folder / "history.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def count_steps(folder: Path) -> int:
    """Counts the steps of a run, from the volumes that its epochs trained on."""
    flags = files.read_json(folder / "run_card.json")["flags"]
    volumes = sum(
        float(row["volumes_per_second"]) * float(row["seconds"]) for row in history(folder)
    )
    return round(volumes / int(flags["batch_size"]))


def make_predictor(model: Path):
    """Returns a function from a `Case` to uint8 [X, Y, Z] canonical classes on its own grid."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from brats_tfrecord.serving.predict import Segmenter

    segmenter = Segmenter(model)
    return lambda case: segmenter.segment(case).classes
