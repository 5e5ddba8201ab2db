"""Datasets, SavedModels and runs that pass between the two stacks (BUILD.md, "Two stacks").

`OTHER_PYTHON` names the Python of an environment of the other stack; `.ci/run` sets it.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from brats_tfrecord.records import example, manifest, tfrecord

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


def test_a_dataset_has_the_same_voxels(run_other, small_cohort, small_dataset, tmp_path):
    """To the last bit, except where the two NumPy versions round float64 logarithms differently.

    On processors with AVX-512 they do, which the manifest's versions tell.
    """
    run_other(
        ROOT / "tools/convert_to_tfrecord.py",
        f"--input_dir={small_cohort}",
        f"--output_dir={tmp_path}",
        "--folds=2",
        "--cases_per_shard=1",
        "--crop=fixed",
        "--crop_window=8:88,6:86,4:60",
    )
    ours, theirs = (manifest.load(root) for root in (small_dataset, tmp_path))
    assert ours.case_ids((0, 1)) == theirs.case_ids((0, 1)) and ours.recipe == theirs.recipe
    pairs = list(zip(_cases(ours), _cases(theirs), strict=True))
    assert pairs
    for mine, other in pairs:
        np.testing.assert_array_equal(mine.classes, other.classes)
        assert mine.crop_origin == other.crop_origin
        differs = mine.image != other.image
        print(f"{mine.case_id}: {differs.mean():.2g} of the values differ by a rounding to float16")
        assert differs.mean() < 1e-3
        np.testing.assert_allclose(mine.image, other.image, rtol=2**-10, atol=2**-14)


def _cases(dataset):
    for path in dataset.shard_paths((0, 1)):
        for record in tfrecord.read_records(path):
            yield example.decode(record, dataset.recipe.image_dtype)


def test_a_saved_model_predicts_the_same(run_other, tiny_model, small_cohort, tmp_path):
    outputs = tmp_path / "ours.npz", tmp_path / "theirs.npz"
    subprocess.run(
        [sys.executable, "-c", PREDICT, tiny_model, small_cohort, outputs[0]], check=True
    )
    run_other("-c", PREDICT, tiny_model, small_cohort, outputs[1])
    ours, theirs = (np.load(output) for output in outputs)
    largest = max(np.abs(ours[name] - theirs[name]).max() for name in ours.files)
    print(f"largest difference of the probabilities: {largest:.2g}")
    assert largest < 1e-4  # 1.1e-5 with AVX-512, where the corrected volumes differ, too


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
