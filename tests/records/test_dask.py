"""Conversions with a real Dask scheduler and two real workers on this machine."""

import contextlib
import json
import subprocess
import sys

import pytest
from tiny_cohorts import (
    TINY_FLAGS,
    TINY_SHAPE,
    listing,
    start_conversion,
    wait_for,
    write_tiny_case,
)

from brats_tfrecord.errors import InputError
from brats_tfrecord.records.pool import Workers, open_pool

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def dask_process(kind, *flags):
    process = subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{kind}", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def dask_cluster(folder):
    """Yields the address of a scheduler and its two worker processes."""
    address_file = folder / "scheduler.json"
    with dask_process(
        "scheduler",
        "--host=127.0.0.1",
        "--port=0",
        "--no-dashboard",
        f"--scheduler-file={address_file}",
    ):
        address = wait_for(
            lambda: address_file.exists() and json.loads(address_file.read_text())["address"]
        )
        flags = (
            address,
            "--nthreads=1",
            "--no-nanny",
            "--no-dashboard",
            "--host=127.0.0.1",
            f"--local-directory={folder}",
        )
        with dask_process("worker", *flags) as first, dask_process("worker", *flags) as second:
            yield address, (first, second)


def test_a_cluster_that_loses_a_worker_gives_the_same_bytes(run_tool, tmp_path):
    """Converts twelve cases; the larger ones are slow enough to be running when one is killed."""
    for index in range(1, 13):
        write_tiny_case(tmp_path / "in", index, (96, 80, 70) if index % 3 else TINY_SHAPE)
    flags = (f"--input_dir={tmp_path / 'in'}", *TINY_FLAGS)
    run_tool("convert_to_tfrecord.py", *flags, f"--output_dir={tmp_path / 'loky'}", "--jobs=1")
    with dask_cluster(tmp_path) as (address, workers):
        process = start_conversion(
            *flags,
            f"--output_dir={tmp_path / 'dask'}",
            "--backend=dask",
            f"--dask_scheduler={address}",
        )
        wait_for(lambda: list((tmp_path / "dask").glob("*.tfrecord")))
        workers[0].kill()
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.endswith("Successfully processed 12/12 patients\n")
    assert "Traceback" not in errors
    assert listing(tmp_path / "dask") == listing(tmp_path / "loky")


@pytest.mark.parametrize(
    "chosen, message",
    [
        ({"backend": "dask"}, "--backend=dask: needs --dask_scheduler=tcp://host:port"),
        (
            {"backend": "dask", "scheduler": "foo"},
            "--dask_scheduler=foo: expected an address with a port",
        ),
        ({"scheduler": "tcp://a:1"}, "--dask_scheduler=tcp://a:1: needs --backend=dask"),
        ({"backend": "dask", "scheduler": "tcp://a:1", "jobs": 3}, "--jobs=3: a Dask cluster has"),
        ({"jobs": -2}, "--jobs=-2: expected the number of worker processes"),
    ],
)
def test_contradictory_workers_are_refused(chosen, message):
    with pytest.raises(InputError, match=message):
        Workers(**chosen)


def test_an_address_without_scheduler_is_refused(monkeypatch):
    monkeypatch.setattr("brats_tfrecord.records.pool.CONNECT_SECONDS", 1)
    with pytest.raises(InputError, match="--dask_scheduler=tcp://127.0.0.1:9: no scheduler answer"):
        with open_pool(Workers(backend="dask", scheduler="tcp://127.0.0.1:9")):
            pass
