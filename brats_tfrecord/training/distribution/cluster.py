"""The processes of a multiworker run: reading TF_CONFIG, and waiting for each other at the start.

TensorFlow would wait for missing peers for up to an hour, and neither signals nor a time limit
end that wait. The processes therefore wait for each other here first: each listens at its own
address until it has connected to all others.
"""

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.stopping import StopRequest

EXAMPLE = (
    '{"cluster": {"worker": ["node1:12345", "node2:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
"""A valid TF_CONFIG, shown in messages and in the help."""

_SECONDS_BETWEEN_ATTEMPTS = 0.2


@dataclass(frozen=True)
class Cluster:
    """The processes that train together.

    Attributes:
        names: name of each process, such as "worker 1"; the first is the chief.
        addresses: host and port of each process, such as "node2:12345".
        rank: index of this process in both.
    """

    names: tuple[str, ...]
    addresses: tuple[str, ...]
    rank: int


def from_environment(environ: Mapping[str, str] = os.environ) -> Cluster:
    """Reads the cluster from the environment variable TF_CONFIG.

    Raises:
        InputError: TF_CONFIG is missing or malformed.
    """
    text = environ.get("TF_CONFIG", "")
    if not text:
        raise InputError(
            "--strategy=multiworker: the environment variable TF_CONFIG is not set; "
            f"expected for example {EXAMPLE}, with each process's own index"
        )
    try:
        return _parse(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"TF_CONFIG={text}: expected for example {EXAMPLE}, with a distinct host:port "
            "for each process and a task that is one of them"
        ) from error


def _parse(config: dict) -> Cluster:
    """Builds the cluster from a parsed TF_CONFIG; raises ValueError, KeyError and the like."""
    jobs = config["cluster"]
    addresses = {
        (job, index): address
        for job in ("chief", "worker")
        for index, address in enumerate(jobs.get(job, ()))
    }
    if not set(jobs) <= {"chief", "worker"} or len(jobs.get("chief", ())) > 1:
        raise ValueError("expected workers and at most one chief")
    if len(set(addresses.values())) < len(addresses):
        raise ValueError("expected distinct addresses")
    if not all(0 < int(address.split(":")[-1]) < 2**16 for address in addresses.values()):
        raise ValueError("expected ports from 1 to 65535")
    if not all(":" in address for address in addresses.values()):
        raise ValueError("expected host:port")
    task = (config["task"]["type"], config["task"]["index"])
    return Cluster(
        tuple(f"{job} {index}" for job, index in addresses),
        tuple(addresses.values()),
        list(addresses).index(task),
    )


def wait_for_peers(cluster: Cluster, minutes: float, stop: StopRequest) -> None:
    """Waits until every process of the cluster has been reached.

    Args:
        cluster: the processes to wait for.
        minutes: how long to wait at most.
        stop: request that ends the wait early.

    Raises:
        InputError: the port of this process is in use.
        Stopped: a process did not appear in time, or a stop was requested.
    """
    end = time.monotonic() + 60 * minutes
    missing = [rank for rank in range(len(cluster.names)) if rank != cluster.rank]
    with _listening(cluster.addresses[cluster.rank]):
        while missing := [rank for rank in missing if not _reached(cluster.addresses[rank])]:
            names = ", ".join(f"{cluster.names[n]} ({cluster.addresses[n]})" for n in missing)
            if stop.reason:
                raise Stopped(
                    f"{stop.reason} while waiting for {names}; run the same command "
                    "again on all workers to continue",
                    stop.exit_code,
                )
            if time.monotonic() >= end:
                raise Stopped(
                    f"{names} did not appear within --peer_wait_minutes={minutes:g}; run "
                    "the same command again on all workers to continue"
                )
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)


def require_equal_gpus(cluster: Cluster, device_names: Iterable[str]) -> None:
    """Raises `InputError` if the processes do not all have the same number of GPUs.

    Sums over replicas would wait forever for the missing ones.

    Args:
        cluster: the processes.
        device_names: TensorFlow's names of the GPUs of all processes, such as
            "/job:worker/replica:0/task:1/device:GPU:0".
    """
    tasks = [re.match(r"/job:(\w+)/replica:\d+/task:(\d+)/", name) for name in device_names]
    owners = ["{} {}".format(*task.groups()) for task in tasks if task]
    counts = {name: owners.count(name) for name in cluster.names}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} has {count}" for name, count in counts.items())
        common = ",".join(map(str, range(min(counts.values())))) or "none"
        raise InputError(
            f"--strategy=multiworker: the workers have unequal numbers of GPUs: {shown}; give all "
            f"of them --gpus={common}, or machines with equally many"
        )


@contextlib.contextmanager
def _listening(address: str) -> Iterator[None]:
    """Accepts connections at this process's port; no data is exchanged over them."""
    port = int(address.rpartition(":")[2])
    try:
        listener = socket.create_server(("", port))
    except OSError as error:
        raise InputError(
            f"TF_CONFIG: {address} is the address of this process, but it cannot listen at port "
            f"{port} ({error.strerror}); choose another port"
        ) from error
    with listener:
        yield


def _reached(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True
