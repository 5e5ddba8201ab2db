"""The processes of a multiworker run: who they are (TF_CONFIG), and the wait until all are there.

TensorFlow waits for missing peers where no signal and no clock reaches it, and for an hour. So
all wait for each other here first: each listens at its own address until it has reached the rest.
"""

import contextlib
import json
import os
import socket
import time
from dataclasses import dataclass

from brats_tfrecord.errors import InputError, Stopped

EXAMPLE = (
    '{"cluster": {"worker": ["node1:12345", "node2:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
_EVERY_SECONDS = 0.2


@dataclass(frozen=True)
class Cluster:
    """The processes that train together.

    Attributes:
        names, addresses: of each, such as "worker 1" and "node2:12345"; the first is the chief.
        place: this process's place among them.
    """

    names: tuple[str, ...]
    addresses: tuple[str, ...]
    place: int


def from_environment(environ=os.environ):
    """The `Cluster` that TF_CONFIG describes.

    Raises:
        InputError: TF_CONFIG is missing or malformed.
    """
    text = environ.get("TF_CONFIG", "")
    if not text:
        raise InputError(
            "--strategy=multiworker: the environment variable TF_CONFIG is not set; "
            f"expected such as {EXAMPLE}, with each process's own index"
        )
    try:
        config = json.loads(text)
        jobs = config["cluster"]
        tasks = {
            (kind, index): address
            for kind in ("chief", "worker")
            for index, address in enumerate(jobs.get(kind, ()))
        }
        own = (config["task"]["type"], config["task"]["index"])
        ports = [int(address.rpartition(":")[2]) for address in tasks.values()]
        good = set(jobs) <= {"chief", "worker"} and own in tasks and len(jobs.get("chief", ())) < 2
        good = good and all(":" in address for address in tasks.values())
        good = good and len({*tasks.values()}) == len(tasks) and all(0 < n < 2**16 for n in ports)
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise InputError(
            f"TF_CONFIG={text}: expected such as {EXAMPLE}, with distinct host:port "
            "for each process, and a task that is one of them"
        )
    return Cluster(
        tuple(f"{kind} {index}" for kind, index in tasks),
        tuple(tasks.values()),
        list(tasks).index(own),
    )


def wait_for_peers(cluster, minutes, stop):
    """Returns once every process of `cluster` has been reached.

    Args:
        cluster: `Cluster`.
        minutes: how long to wait for those that are not there.
        stop: `stopping.StopRequest`, looked at meanwhile.

    Raises:
        InputError: this process's port is taken.
        Stopped: somebody did not appear in time, or `stop` was asked for.
    """
    end = time.monotonic() + 60 * minutes
    missing = [place for place in range(len(cluster.names)) if place != cluster.place]
    with _listening(cluster.addresses[cluster.place]):
        while missing := [place for place in missing if not _reached(cluster.addresses[place])]:
            names = ", ".join(f"{cluster.names[n]} ({cluster.addresses[n]})" for n in missing)
            if stop.reason:
                raise Stopped(
                    f"{stop.reason} while waiting for {names}; run the same command "
                    "again on all workers to go on",
                    stop.exit_code,
                )
            if time.monotonic() >= end:
                raise Stopped(
                    f"{names} did not appear within --peer_wait_minutes={minutes:g}; run "
                    "the same command again on all workers to go on"
                )
            time.sleep(_EVERY_SECONDS)


@contextlib.contextmanager
def _listening(address):
    """Lets peers connect to this process's port; nothing is said over the connections."""
    port = int(address.rpartition(":")[2])
    try:
        listener = socket.create_server(("", port))
    except OSError as error:
        raise InputError(
            f"TF_CONFIG: {address} is this process's address, but port {port} cannot "
            f"be listened at ({error.strerror}); choose another port"
        ) from error
    with listener:
        yield


def _reached(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True
