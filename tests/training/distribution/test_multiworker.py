"""Two processes that train together over the loopback interface, lose each other, and resume."""

import csv
import json
import os
import re
import shutil
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

pytestmark = pytest.mark.slow

TRAIN = Path(__file__).parents[3] / "tools/train.py"
TIMES = {"input_wait", "volumes_per_second", "seconds"}
LOST = r"train.py: a peer was lost \(.+\); run the same command again on all workers to continue\n"

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
    """Folder and the two finished processes of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, finish(start(flags, folder))


def free_ports(count):
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def start(flags, folder, *more, workers=(0, 1), own=((), ())):
    """Starts workers of a run of two; `own` holds additional flags of each."""
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
    """Waits for processes; returns (exit code, stdout, stderr) of each."""
    end = time.monotonic() + seconds
    texts = [process.communicate(timeout=max(1, end - time.monotonic())) for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, texts)]


def course(folder):
    """history.csv without the columns of times."""
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


def test_two_processes_train_like_two_replicas(dataset, unbroken, tmp_path):
    folder, processes = unbroken
    assert [code for code, _, _ in processes] == [0, 0], processes
    replicas = loop.train(
        TrainOptions(str(dataset.root), str(tmp_path), **OPTIONS, virtual_devices=2)
    )
    for column in ("loss", "val_loss"):
        # The order of sums differs: float32 rounding errors.
        np.testing.assert_allclose(
            [float(row[column]) for row in course(folder)],
            [row[column] for row in replicas.history],
            rtol=1e-5,
        )


def test_only_the_chief_prints_and_writes(unbroken):
    folder, [(_, chief, _), (_, worker, errors)] = unbroken
    assert "over 2 replica(s)" in chief and "epoch 2/2" in chief and "Exported epoch" in chief
    assert worker == "" and errors == ""
    assert (folder / "saved_model/saved_model.pb").is_file()
    assert len(list(folder.glob("tensorboard/*"))) == 1


@pytest.mark.soak
def test_if_a_worker_is_killed_the_chief_exits_with_75_and_both_resume_exactly(
    flags, unbroken, tmp_path
):
    code, _, errors = kill_one(flags, tmp_path, victim=1)
    assert code == 75 and re.fullmatch(LOST, errors), errors
    rerun = finish(start(flags, tmp_path))
    assert [code for code, _, _ in rerun] == [0, 0], rerun
    assert " finished epochs" in rerun[0][1]
    assert course(tmp_path) == course(unbroken[0])


@pytest.mark.soak
def test_if_the_chief_is_killed_the_worker_exits_with_75_and_both_resume_exactly(
    flags, unbroken, tmp_path
):
    for moment in ((0, 1), (0, 3), (1, 2)):
        code, output, errors = kill_one(flags, tmp_path, victim=0, moment=moment)
        assert code == 75 and output == "" and re.fullmatch(LOST, errors), errors
    assert [code for code, _, _ in finish(start(flags, tmp_path))] == [0, 0]
    assert course(tmp_path) == course(unbroken[0])


@pytest.mark.soak
@pytest.mark.parametrize("signalled", [(0,), (1,), (0, 1)])
def test_a_signal_to_any_process_stops_all_after_the_same_step(
    flags, unbroken, tmp_path, signalled
):
    processes = start(flags, tmp_path)
    wait_for(lambda: saved(tmp_path) >= (0, 2))
    for index in signalled:
        processes[index].send_signal(signal.SIGTERM)
    done = finish(processes)
    assert [code for code, _, _ in done] == [75, 75], done
    positions = {
        re.search(r"the state after (.+) is saved; run", errors)[1] for _, _, errors in done
    }
    epoch, step = saved(tmp_path)
    assert positions == {f"step {step} of epoch {epoch + 1}"}
    assert all(errors.count("\n") == 1 for _, _, errors in done)
    assert [code for code, _, _ in finish(start(flags, tmp_path))] == [0, 0]
    assert course(tmp_path) == course(unbroken[0])


@pytest.mark.soak
def test_the_time_limit_of_either_process_stops_both(flags, tmp_path):
    more = ("--time_limit_minutes=0.5", "--epochs=10000", "--validate_every=10000")
    done = finish(start(flags, tmp_path, *more))
    assert [code for code, _, _ in done] == [75, 75], done
    reached = [re.search(r"step \d+ of epoch \d+", errors)[0] for _, _, errors in done]
    assert reached[0] == reached[1] and saved(tmp_path) > (0, 0)


@pytest.mark.soak
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_two_processes_train_in_every_precision(flags, tmp_path, precision):
    done = finish(start(flags, tmp_path, f"--precision={precision}", "--optimizer=lamb"))
    assert [code for code, _, _ in done] == [0, 0], done


@pytest.mark.soak
@pytest.mark.parametrize("present", [0, 1])
def test_a_missing_peer_is_named(flags, tmp_path, present):
    done = finish(start(flags, tmp_path, "--peer_wait_minutes=0.02", workers=[present]))
    [(code, _, errors)] = done
    assert code == 75
    assert re.fullmatch(
        rf"train.py: worker {1 - present} \(127.0.0.1:\d+\) did not appear within "
        "--peer_wait_minutes=0.02; run the same command .*\n",
        errors,
    ), errors


@pytest.mark.soak
@pytest.mark.parametrize("victim", [1, 0])
def test_shards_that_only_one_worker_finds_damaged_end_both_with_its_message(
    dataset, tmp_path, victim
):
    """Each worker has a copy of the dataset. The exit code is not one that SLURM starts again."""
    copies = [tmp_path / f"data{index}" for index in (0, 1)]
    for copy in copies:
        shutil.copytree(dataset.root, copy)
    for shard in copies[victim].glob("fold[12]-*.tfrecord"):
        shard.write_bytes(bytes(shard.stat().st_size))
    flags = [f"--{name}={value}" for name, value in OPTIONS.items()]
    own = [[f"--data_dir={copy}"] for copy in copies]
    done = finish(start(flags, tmp_path / "model", own=own))
    assert [code for code, _, _ in done] == [2, 2], done
    message = rf"--data_dir={copies[victim]}: fold[12]-\S+: case\d: its length does not fit .+\n"
    for index, (_, _, errors) in enumerate(done):
        whose = "" if index == victim else f"worker {victim}: "
        assert re.fullmatch(f"train.py: {whose}{message}", errors), errors
    card = (tmp_path / "model/run_card.md").read_text()
    assert "failed: " in card and "its length does not fit" in card


@pytest.mark.soak
def test_a_folder_that_the_chief_refuses_is_refused_by_all_with_its_message(flags, tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    done = finish(start(flags, tmp_path))
    assert [code for code, _, _ in done] == [2, 2], done
    message = f"--model_dir={tmp_path}: holds no run (run.json is missing), but is not empty"
    for whose, (_, _, errors) in zip(("", "worker 0: "), done):
        assert errors.startswith(f"train.py: {whose}{message}") and errors.count("\n") == 1


@pytest.mark.soak
def test_workers_with_different_flags_are_all_refused(flags, tmp_path):
    done = finish(start(flags, tmp_path, own=(["--seed=0"], ["--seed=1"])))
    assert [code for code, _, _ in done] == [2, 2], done
    assert all("the workers differ in --seed (here" in errors for _, _, errors in done)
    assert not list(tmp_path.iterdir())


def test_unequal_numbers_of_gpus_are_refused_by_name():
    members = cluster.Cluster(("chief 0", "worker 0"), ("a:1", "b:2"), rank=0)

    def gpus(task, count):
        return [f"/job:{task}/replica:0/task:0/device:GPU:{n}" for n in range(count)]

    cluster.require_equal_gpus(members, [])
    cluster.require_equal_gpus(members, gpus("chief", 2) + gpus("worker", 2))
    with pytest.raises(InputError, match="chief 0 has 4, worker 0 has 2; give all .*--gpus=0,1,"):
        cluster.require_equal_gpus(members, gpus("chief", 4) + gpus("worker", 2))
    with pytest.raises(InputError, match="chief 0 has 0, worker 0 has 2; give all .*--gpus=none,"):
        cluster.require_equal_gpus(members, gpus("worker", 2))


def test_tf_config_is_parsed():
    assert cluster.from_environment({"TF_CONFIG": cluster.EXAMPLE}) == cluster.Cluster(
        ("worker 0", "worker 1"), ("node1:12345", "node2:12345"), rank=0
    )
    with_chief = {
        "cluster": {"worker": ["b:2"], "chief": ["a:1"]},
        "task": {"type": "worker", "index": 0},
    }
    assert cluster.from_environment({"TF_CONFIG": json.dumps(with_chief)}) == cluster.Cluster(
        ("chief 0", "worker 0"), ("a:1", "b:2"), rank=1
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
        cluster.EXAMPLE.replace("node2:12345", "12345"),
        cluster.EXAMPLE.replace("node2:12345", "node2:0"),
        cluster.EXAMPLE.replace("node2:12345", "node2:65536"),
        cluster.EXAMPLE.replace('"worker"', '"chief"'),
        cluster.EXAMPLE.replace("node2", "node1"),
        cluster.EXAMPLE.replace('"worker":', '"ps":'),
    ],
)
def test_a_malformed_tf_config_is_refused_with_an_example(text):
    with pytest.raises(InputError, match="TF_CONFIG=.*expected for example .*node1:12345"):
        cluster.from_environment({"TF_CONFIG": text})
    with pytest.raises(InputError, match="TF_CONFIG is not set; expected for example"):
        cluster.from_environment({})


def test_the_wait_for_peers_ends_at_a_stop_or_in_time():
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
        with pytest.raises(InputError, match="cannot listen at port"):
            cluster.wait_for_peers(two, 0, stopping.StopRequest())
