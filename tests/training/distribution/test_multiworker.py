"""Two real processes on loopback that train as one, lose each other, and go on."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_cohorts import wait_for

from brats_tfrecord import stopping
from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.training import loop
from brats_tfrecord.training.distribution import cluster
from brats_tfrecord.training.train_options import TrainOptions

TRAIN = Path(__file__).parents[2] / "tools/train.py"
TIMES = {"input_wait", "volumes_per_second", "seconds"}
LOST = r"train.py: a peer was lost \(.+\); run the same command again on all workers to go on\n"


OPTIONS = {
    "filters": "4,8",
    "dropout": "0",
    "patch_size": 8,
    "epochs": 2,
    "batch_size": 2,
    "patches_per_case": 2,
    "loss": "dice_cross_entropy",
    "schedule": "cosine",
    "averaging": "ema",
    "clip_norm": 1.0,
    "accumulate": 2,
    "precision": "float32",
    "gpus": "none",
    "checkpoint_minutes": 0.0,
}
"""Two epochs of four steps, every step saved."""


@pytest.fixture(scope="module")
def flags(dataset):
    return [f"--data_dir={dataset.root}", *(f"--{name}={value}" for name, value in OPTIONS.items())]


@pytest.fixture(scope="module")
def unbroken(flags, tmp_path_factory):
    """Folder and the two finished processes of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, finish(start(flags, folder))


def free_ports(count):
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in with_ports]
    for one in with_ports:
        one.close()
    return ports


def start(flags, folder, *more, workers=(0, 1), own=((), ())):
    """Starts `workers` of a run of two, each with flags of its `own`."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    command = [
        sys.executable,
        str(TRAIN),
        "--strategy=multiworker",
        f"--model_dir={folder}",
        *flags,
        *more,
    ]
    return [
        subprocess.Popen(
            [*command, *own[index]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "TF_CONFIG": json.dumps(
                    {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
                ),
            },
        )
        for index in workers
    ]


def finish(processes, seconds=120):
    """(exit code, stdout, stderr) of each."""
    end = time.monotonic() + seconds
    texts = [process.communicate(timeout=max(1, end - time.monotonic())) for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, texts)]


def course(folder):
    """history.csv but for the times."""
    with open(folder / "history.csv", newline="") as stream:
        return [
            {name: value for name, value in row.items() if name not in TIMES}
            for row in csv.DictReader(stream)
        ]


def saved(folder):
    """(finished epochs, steps) of the newest checkpoint."""
    return max(
        (
            tuple(map(int, path.stem.split("-")[1:]))
            for path in folder.glob("checkpoints/last-*.index")
        ),
        default=(0, 0),
    )


def kill_one(flags, folder, victim, moment=(0, 2)):
    """Kills a worker once `moment` is saved; returns the survivor's (code, stdout, stderr)."""
    processes = start(flags, folder)
    wait_for(lambda: saved(folder) >= moment)
    processes[victim].kill()
    killed = time.monotonic()
    [survivor] = finish([processes[1 - victim]], 60)
    print(f"worker {victim} killed; the other left after {time.monotonic() - killed:.1f} s")
    finish([processes[victim]])
    return survivor


def test_two_processes_give_the_curve_of_two_replicas_of_one(dataset, unbroken, tmp_path):
    folder, processes = unbroken
    assert [code for code, _, _ in processes] == [0, 0], processes
    one = loop.train(
        TrainOptions(str(dataset.root), str(tmp_path), **OPTIONS, virtual_devices=2)
    ).history
    for column in ("loss", "val_loss"):
        # Sums that run in another order: float32 rounding.
        np.testing.assert_allclose(
            [float(row[column]) for row in course(folder)], [row[column] for row in one], rtol=1e-5
        )


def test_the_chief_alone_publishes(unbroken):
    folder, [(_, chief, _), (_, other, complaints)] = unbroken
    assert "over 2 replica(s)" in chief and "epoch 2/2" in chief and "Exported epoch" in chief
    assert other == "" and complaints == ""
    assert (folder / "saved_model/saved_model.pb").is_file()
    assert len(list(folder.glob("tensorboard/*"))) == 1


def test_a_worker_killed_the_chief_exits_75_and_both_go_on_as_if_unbroken(
    flags, unbroken, tmp_path
):
    code, _, errors = kill_one(flags, tmp_path, victim=1)
    assert code == 75 and re.fullmatch(LOST, errors), errors
    again = finish(start(flags, tmp_path))
    assert [code for code, _, _ in again] == [0, 0], again
    assert " finished epochs" in again[0][1]
    assert course(tmp_path) == course(unbroken[0])


@pytest.mark.soak
def test_the_chief_killed_the_worker_exits_75_and_both_go_on_as_if_unbroken(
    flags, unbroken, tmp_path
):
    for moment in ((0, 1), (0, 3), (1, 2)):
        code, output, errors = kill_one(flags, tmp_path, victim=0, moment=moment)
        assert code == 75 and output == "" and re.fullmatch(LOST, errors), errors
    assert [code for code, _, _ in finish(start(flags, tmp_path))] == [0, 0]
    assert course(tmp_path) == course(unbroken[0])


@pytest.mark.soak
@pytest.mark.parametrize("told", [(0,), (1,), (0, 1)])
def test_a_signal_to_any_stops_all_after_one_step_that_is_saved(flags, unbroken, tmp_path, told):
    processes = start(flags, tmp_path)
    wait_for(lambda: saved(tmp_path) >= (0, 2))
    for index in told:
        processes[index].send_signal(signal.SIGTERM)
    done = finish(processes)
    assert [code for code, _, _ in done] == [75, 75], done
    places = {re.search(r"the state after (.+) is saved; run", errors)[1] for _, _, errors in done}
    epoch, step = saved(tmp_path)
    assert places == {f"step {step} of epoch {epoch + 1}"}
    assert all(errors.count("\n") == 1 for _, _, errors in done)
    assert [code for code, _, _ in finish(start(flags, tmp_path))] == [0, 0]
    assert course(tmp_path) == course(unbroken[0])


@pytest.mark.soak
def test_the_time_limit_of_whoever_comes_first_stops_both(flags, tmp_path):
    more = ("--time_limit_minutes=0.5", "--epochs=10000", "--validate_every=10000")
    done = finish(start(flags, tmp_path, *more))
    assert [code for code, _, _ in done] == [75, 75], done
    reached = [re.search(r"step \d+ of epoch \d+", errors)[0] for _, _, errors in done]
    assert reached[0] == reached[1] and saved(tmp_path) > (0, 0)


@pytest.mark.soak
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_every_precision_trains_on_two(flags, tmp_path, precision):
    done = finish(start(flags, tmp_path, f"--precision={precision}", "--optimizer=lamb"))
    assert [code for code, _, _ in done] == [0, 0], done


@pytest.mark.soak
@pytest.mark.parametrize("present", [0, 1])
def test_a_peer_that_never_appears_is_named(flags, tmp_path, present):
    done = finish(start(flags, tmp_path, "--peer_wait_minutes=0.02", workers=[present]))
    [(code, _, errors)] = done
    assert code == 75
    assert re.fullmatch(
        rf"train.py: worker {1 - present} \(127.0.0.1:\d+\) did not appear within "
        "--peer_wait_minutes=0.02; run the same command .*\n",
        errors,
    ), errors


@pytest.mark.soak
def test_workers_that_differ_are_refused_alike(flags, tmp_path):
    done = finish(start(flags, tmp_path, own=(["--seed=0"], ["--seed=1"])))
    assert [code for code, _, _ in done] == [2, 2], done
    assert all("the workers differ in --seed (here" in errors for _, _, errors in done)
    assert not list(tmp_path.iterdir())


def test_tf_config_by_example():
    found = cluster.from_environment({"TF_CONFIG": cluster.EXAMPLE})
    assert found == cluster.Cluster(
        ("worker 0", "worker 1"), ("node1:12345", "node2:12345"), place=0
    )
    with_chief = {
        "cluster": {"worker": ["b:2"], "chief": ["a:1"]},
        "task": {"type": "worker", "index": 0},
    }
    assert cluster.from_environment({"TF_CONFIG": json.dumps(with_chief)}) == cluster.Cluster(
        ("chief 0", "worker 0"), ("a:1", "b:2"), place=1
    )


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"cluster": {}, "task": {}}',
        cluster.EXAMPLE.replace("0}", "2}"),
        cluster.EXAMPLE.replace("node2:12345", "node2"),
        cluster.EXAMPLE.replace("node2", "node1"),
        cluster.EXAMPLE.replace('"worker":', '"ps":'),
    ],
)
def test_a_tf_config_that_is_wrong_is_refused_with_an_example(text):
    with pytest.raises(InputError, match="TF_CONFIG=.*expected such as .*node1:12345"):
        cluster.from_environment({"TF_CONFIG": text})
    with pytest.raises(InputError, match="TF_CONFIG is not set; expected such as"):
        cluster.from_environment({})


def test_a_stop_ends_the_wait_for_peers_and_the_clock_does():
    stop = stopping.StopRequest(time_limit_minutes=1e-9)
    here, absent = (f"127.0.0.1:{port}" for port in free_ports(2))
    two = cluster.Cluster(("worker 0", "worker 1"), (here, absent), 0)
    with pytest.raises(Stopped, match="are over while waiting for worker 1"):
        cluster.wait_for_peers(two, 10, stop)
    with pytest.raises(Stopped, match="worker 1 .* did not appear within --peer_wait_minutes=0;"):
        cluster.wait_for_peers(two, 0, stopping.StopRequest())
    with socket.create_server(("127.0.0.1", int(absent.split(":")[1]))):
        cluster.wait_for_peers(two, 0, stopping.StopRequest())
    with socket.create_server(("", int(here.split(":")[1]))):
        with pytest.raises(InputError, match="cannot be listened at"):
            cluster.wait_for_peers(two, 0, stopping.StopRequest())
