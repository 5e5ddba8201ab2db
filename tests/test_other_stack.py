"""Datasets, SavedModels and runs that pass between the two stacks (BUILD.md, "Two stacks").

`OTHER_PYTHON` names the Python of an environment of the other stack; `.ci/run` sets it.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from brats_tfrecord import files

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TRAINING = (
    "--filters=4,8",
    "--patch_size=16",
    "--patches_per_case=2",
    "--loss=dice_cross_entropy",
    "--augment=full",
    "--averaging=ema",
    "--precision=float32",
    "--validate_every=2",
)
PREDICT = """
import sys, numpy as np
from brats_tfrecord.cohort import layouts
from brats_tfrecord.serving.predict import Segmenter
model, cohort, output = sys.argv[1:]
segmenter = Segmenter(model)
cases = layouts.find_cases(cohort)[:2]
np.savez(output, *[segmenter.segment(case).probabilities for case in cases])
"""


@pytest.fixture(scope="module")
def run_other():
    """Runs Python of the other stack with this code: `run_other(*arguments)`."""
    python = os.environ.get("OTHER_PYTHON")
    if not python:
        pytest.skip("NO OTHER STACK: OTHER_PYTHON names no Python, so nothing is compared with it")

    def run(*arguments):
        done = subprocess.run(
            [python, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=500,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done

    return run


def test_a_dataset_has_the_same_bytes(run_other, small_cohort, small_dataset, tmp_path):
    run_other(
        ROOT / "tools/convert_to_tfrecord.py",
        f"--input_dir={small_cohort}",
        f"--output_dir={tmp_path}",
        "--folds=2",
        "--cases_per_shard=1",
        "--crop=fixed",
        "--crop_window=8:88,6:86,4:60",
    )
    shards = sorted(path.name for path in small_dataset.glob("*.tfrecord"))
    assert shards
    for name in shards:
        assert files.sha256(tmp_path / name) == files.sha256(small_dataset / name), name
    ours, theirs = (
        json.loads((root / "dataset.json").read_text()) for root in (small_dataset, tmp_path)
    )
    assert ours.pop("versions") != theirs.pop("versions")
    for case in (*ours["cases"], *theirs["cases"]):
        del case["key"]  # depends on the versions
    assert ours == theirs


def test_a_saved_model_predicts_the_same(run_other, tiny_model, small_cohort, tmp_path):
    outputs = tmp_path / "ours.npz", tmp_path / "theirs.npz"
    subprocess.run(
        [sys.executable, "-c", PREDICT, tiny_model, small_cohort, outputs[0]], check=True
    )
    run_other("-c", PREDICT, tiny_model, small_cohort, outputs[1])
    ours, theirs = (np.load(output) for output in outputs)
    largest = max(np.abs(ours[name] - theirs[name]).max() for name in ours.files)
    print(f"largest difference of the probabilities: {largest:.2g}")
    assert largest < 1e-5


def test_a_run_continues(run_other, run_tool, small_dataset, tmp_path):
    """Two epochs here and two there, against four here."""
    folders = tmp_path / "unbroken", tmp_path / "continued"
    flags = [[f"--data_dir={small_dataset}", f"--model_dir={root}", *TRAINING] for root in folders]
    run_tool("train.py", *flags[0], "--epochs=4")
    run_tool("train.py", *flags[1], "--epochs=2")
    run_other(ROOT / "tools/train.py", *flags[1], "--epochs=4")
    ours, theirs = (_losses(root) for root in folders)
    print(f"losses of the epochs here {ours}, continued there {theirs}")
    np.testing.assert_array_equal(ours[:2], theirs[:2])
    np.testing.assert_allclose(ours[2:], theirs[2:], rtol=1e-4)


def _losses(folder):
    with open(folder / "history.csv", newline="") as stream:
        return [float(row["loss"]) for row in csv.DictReader(stream)]
