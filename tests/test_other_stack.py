"""Datasets, SavedModels and runs that pass between the two stacks (BUILD.md, "Two stacks").

`OTHER_PYTHON` names the Python of an environment of the other stack; `.ci/run` sets it.
"""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from brats_tfrecord import files
from brats_tfrecord.records import example, tfrecord

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
from pathlib import Path
from brats_tfrecord.records import example, tfrecord
from brats_tfrecord.serving.predict import Segmenter
model, dataset, output = sys.argv[1:]
segmenter = Segmenter(model)
shards = sorted(Path(dataset).glob("*.tfrecord"))[:2]
records = [record for path in shards for record in tfrecord.read_records(path)]
cases = [example.decode(record, "float16") for record in records]
np.savez(output, *[segmenter.segment_stored(case).probabilities for case in cases])
"""
NUMPY = """
import hashlib, numpy as np
values = np.linspace(0.1, 20, 10**5)
print(hashlib.sha256(np.exp(values).tobytes() + np.log(values).tobytes()).hexdigest())
"""
"""Prints a digest of what float64 exp and log return, which N4 uses. On processors with AVX-512
NumPy 1.26 and 2.2 differ in the last bits."""


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
    """If NumPy computes the same on both stacks; else few values differ, by one rounding."""
    run_other(
        ROOT / "tools/convert_to_tfrecord.py",
        f"--input_dir={small_cohort}",
        f"--output_dir={tmp_path}",
        "--folds=2",
        "--cases_per_shard=1",
        "--crop=fixed",
        "--crop_window=8:88,6:86,4:60",
    )
    ours, theirs = (
        json.loads((root / "dataset.json").read_text()) for root in (small_dataset, tmp_path)
    )
    assert ours.pop("versions") != theirs.pop("versions")
    for case in (*ours["cases"], *theirs["cases"]):
        del case["key"]  # depends on the versions
    here = subprocess.run([sys.executable, "-c", NUMPY], capture_output=True, text=True, check=True)
    if here.stdout != run_other("-c", NUMPY).stdout:
        print("NumPy rounds exp and log otherwise on the other stack: values are compared")
        for manifest in (ours, theirs):
            for shard in manifest["shards"]:
                del shard["sha256"]
        assert ours == theirs
        _require_one_rounding(small_dataset, tmp_path)
        return
    shards = sorted(path.name for path in small_dataset.glob("*.tfrecord"))
    assert shards
    for name in shards:
        assert files.sha256(tmp_path / name) == files.sha256(small_dataset / name), name
    assert ours == theirs


def _require_one_rounding(*roots):
    """Requires equal records, but for few values of images that differ by a rounding to float16."""
    ours, theirs = (
        [
            example.decode(record, "float16")
            for path in sorted(root.glob("*.tfrecord"))
            for record in tfrecord.read_records(path)
        ]
        for root in roots
    )
    assert ours
    for mine, other in zip(ours, theirs, strict=True):
        differs = mine.image != other.image
        print(f"{mine.case_id}: {differs.mean():.2g} of the values differ")
        assert differs.mean() < 1e-4
        np.testing.assert_allclose(mine.image, other.image, rtol=2**-10, atol=2**-24)
        np.testing.assert_equal(
            dataclasses.asdict(dataclasses.replace(mine, image=None)),
            dataclasses.asdict(dataclasses.replace(other, image=None)),
        )


def test_a_saved_model_predicts_the_same(run_other, tiny_model, small_dataset, tmp_path):
    """Records of one dataset, so that the networks see equal images."""
    outputs = tmp_path / "ours.npz", tmp_path / "theirs.npz"
    subprocess.run(
        [sys.executable, "-c", PREDICT, tiny_model, small_dataset, outputs[0]], check=True
    )
    run_other("-c", PREDICT, tiny_model, small_dataset, outputs[1])
    ours, theirs = (np.load(output) for output in outputs)
    largest = max(np.abs(ours[name] - theirs[name]).max() for name in ours.files)
    print(f"largest difference of the probabilities: {largest:.2g}")
    assert ours.files and largest < 1e-5


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
