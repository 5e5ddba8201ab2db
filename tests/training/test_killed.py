"""Processes that are killed or stopped by signals while they train, and started again."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_cohorts import wait_for

from brats_tfrecord.training import loop
from brats_tfrecord.training.train_options import TrainOptions

pytestmark = pytest.mark.slow

TRAIN = Path(__file__).parents[2] / "tools/train.py"
FLAGS = {
    "filters": "4,8",
    "patch_size": 8,
    "epochs": 3,
    "batch_size": 2,
    "patches_per_case": 2,
    "loss": "dice_cross_entropy",
    "schedule": "cosine",
    "averaging": "ema",
    "gpus": "none",
    "checkpoint_minutes": 0.0,
}
TIMES = {"input_wait", "volumes_per_second", "seconds"}


@pytest.fixture(scope="module")
def command(dataset):
    """Function (model_dir) -> command that trains three epochs of four steps, saving each."""

    def command(model_dir, *more):
        flags = [f"--{name}={value}" for name, value in FLAGS.items()]
        return [
            sys.executable,
            str(TRAIN),
            f"--data_dir={dataset.root}",
            f"--model_dir={model_dir}",
            *flags,
            *more,
        ]

    return command


@pytest.fixture(scope="module")
def unbroken(dataset, tmp_path_factory):
    """Folder of an uninterrupted run with the same flags, trained in this process."""
    folder = tmp_path_factory.mktemp("unbroken")
    loop.train(TrainOptions(str(dataset.root), str(folder), **FLAGS))
    return folder


def course(folder):
    """history.csv without the columns of times."""
    with open(folder / "history.csv", newline="") as stream:
        return [
            {name: value for name, value in row.items() if name not in TIMES}
            for row in csv.DictReader(stream)
        ]


def start(command, folder, **options):
    return subprocess.Popen(
        command(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def steps_saved(folder):
    """(finished epochs, steps) of the newest checkpoint."""
    return max(
        (
            tuple(map(int, path.stem.split("-")[1:]))
            for path in folder.glob("checkpoints/last-*.index")
        ),
        default=(0, 0),
    )


def test_a_run_killed_within_an_epoch_resumes_exactly(command, unbroken, tmp_path):
    process = start(command, tmp_path)
    wait_for(lambda: steps_saved(tmp_path) >= (1, 2))
    process.kill()
    process.communicate()
    rerun = subprocess.run(command(tmp_path), check=True, capture_output=True, text=True)
    assert "finished epochs and " in rerun.stdout
    assert course(tmp_path) == course(unbroken)


KILLED_BETWEEN_RENAMES = """
import os, pathlib, signal

replace = pathlib.Path.replace

def replace_or_die(path, target):
    if path.name == "last-00001-000002.index":
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(path, target)

pathlib.Path.replace = replace_or_die
"""
WITHOUT_LOCKS = """
import errno, fcntl, os

def flock(stream, operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

fcntl.flock = flock
"""

SLOW_AND_DAMAGED = """
import time
from brats_tfrecord.errors import InputError
from brats_tfrecord.training.data.record_reader import RecordReader

read_image, calls = RecordReader.read_image, []

def slow_and_damaged(*arguments):
    calls.append(arguments)
    time.sleep(0.3)
    if len(calls) == 4:
        raise InputError("a shard is damaged")
    return read_image(*arguments)

RecordReader.read_image = slow_and_damaged
"""


def changed(tmp_path, code):
    """Environment of a process that runs `code` when Python starts."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(code)
    paths = [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.mark.soak
def test_a_run_killed_between_the_renames_of_a_checkpoint_resumes_exactly(
    command, unbroken, tmp_path
):
    """SIGKILL after the data of a state is in place, before its index is."""
    folder = tmp_path / "model"
    process = start(command, folder, env=changed(tmp_path, KILLED_BETWEEN_RENAMES))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    names = {path.name for path in (folder / "checkpoints").glob("last-*")}
    data = "data-00000-of-00001"
    assert names == {
        f"last-00001-000002.{data}",
        *(f"last-00001-00000{step}.{part}" for step in (0, 1) for part in ("index", data)),
    }
    rerun = subprocess.run(command(folder), check=True, capture_output=True, text=True)
    assert rerun.stdout.count("continuing from the state before it, last-00001-000001\n") == 1
    assert course(folder) == course(unbroken)
    assert not list(folder.rglob(".*"))


@pytest.mark.soak
def test_a_file_system_without_locks_costs_one_line(command, unbroken, tmp_path):
    environment = changed(tmp_path, WITHOUT_LOCKS)
    done = subprocess.run(
        command(tmp_path / "model"), check=True, capture_output=True, text=True, env=environment
    )
    [line] = done.stderr.splitlines()
    assert line.startswith(f"{tmp_path}/model: this file system has no locks (No locks available)")
    assert course(tmp_path / "model") == course(unbroken)


def test_a_run_ends_while_threads_still_read(command, tmp_path):
    """At the end of Python, input pipelines would wait for threads that can no longer run."""
    done = subprocess.run(
        command(tmp_path / "model", "--virtual_devices=2"),
        capture_output=True,
        text=True,
        timeout=100,
        env=changed(tmp_path, SLOW_AND_DAMAGED),
    )
    assert done.returncode == 2 and "a shard is damaged" in done.stderr


@pytest.mark.soak
def test_a_run_killed_twelve_times_resumes_exactly(command, unbroken, tmp_path):
    rng, moments = random.Random(7), []
    for _ in range(12):
        process = start(command, tmp_path)
        moments.append(rng.uniform(4, 8))
        time.sleep(moments[-1])
        process.kill()
        process.communicate()
        print(f"killed after {moments[-1]:.1f} s, saved {steps_saved(tmp_path)}")
    subprocess.run(command(tmp_path), check=True, capture_output=True)
    assert course(tmp_path) == course(unbroken)


@pytest.mark.parametrize(
    "sent, code", [(signal.SIGTERM, 75), pytest.param(signal.SIGINT, 130, marks=pytest.mark.soak)]
)
def test_a_signal_saves_the_state_first(command, unbroken, tmp_path, sent, code):
    process = start(command, tmp_path)
    wait_for(lambda: steps_saved(tmp_path) >= (0, 2))
    process.send_signal(sent)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code
    assert errors.splitlines()[-1].startswith(f"train.py: stopped by {sent.name}; the state after")
    assert steps_saved(tmp_path) >= (0, 2)


@pytest.mark.soak
def test_a_run_stopped_by_a_signal_resumes_exactly(command, unbroken, tmp_path):
    process = start(command, tmp_path)
    wait_for(lambda: steps_saved(tmp_path) >= (0, 3))
    process.terminate()
    process.communicate(timeout=120)
    subprocess.run(command(tmp_path), check=True, capture_output=True)
    assert course(tmp_path) == course(unbroken)
