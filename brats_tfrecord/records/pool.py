"""Runs a function over many tasks in other processes: local ones (loky) or a Dask cluster."""

import contextlib
import ctypes
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError
from threadpoolctl import threadpool_limits

from brats_tfrecord.errors import InputError

BACKENDS = ("loky", "dask")
CONNECT_SECONDS = 20
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_prepared: list[threadpool_limits] = []
"""Holds the thread limit of a prepared worker; empty in other processes."""


Run = Callable[..., Iterator[Any]]
"""Type of the function that `open_pool` yields."""


class WorkerKilled(RuntimeError):
    """A worker was killed during a task, most likely by the kernel for lack of memory."""


@dataclass(frozen=True)
class Workers:
    """The worker processes to use.

    Attributes:
        jobs: number of processes on this machine; -1 is one per core. A Dask cluster has its own.
        backend: "loky" or "dask".
        scheduler: address of the Dask scheduler.
    """

    jobs: int = -1
    backend: str = "loky"
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.jobs == 0 or self.jobs < -1:
            raise InputError(
                f"--jobs={self.jobs}: expected the number of worker processes, or -1 for one per "
                "core"
            )
        if self.backend == "dask" and not self.scheduler:
            raise InputError("--backend=dask: needs --dask_scheduler=tcp://host:port")
        if self.backend != "dask" and self.scheduler:
            raise InputError(f"--dask_scheduler={self.scheduler}: needs --backend=dask")
        # Dask prints a trace when it is given an address that it cannot parse.
        if self.scheduler and not self.scheduler.rpartition(":")[2].isdecimal():
            raise InputError(
                f"--dask_scheduler={self.scheduler}: expected an address with a port, such as "
                "tcp://10.0.0.1:8786"
            )
        if self.backend == "dask" and self.jobs != -1:
            raise InputError(
                f"--jobs={self.jobs}: a Dask cluster has its own number of workers; "
                "leave --jobs out"
            )

    @property
    def count(self) -> int:
        """Number of processes on this machine."""
        return joblib.cpu_count() if self.jobs == -1 else self.jobs

    def for_tasks(self, count: int) -> "Workers":
        """Returns the same workers with at most one process for each of `count` tasks."""
        return self.with_jobs(max(min(self.count, count), 1))

    def with_jobs(self, jobs: int) -> "Workers":
        """Returns the same workers with `jobs` processes; a Dask cluster is not changed."""
        return self if self.backend == "dask" else dataclasses.replace(self, jobs=jobs)


@contextlib.contextmanager
def open_pool(workers: Workers) -> Iterator[Run]:
    """Yields `run(function, tasks, workers=workers)`, which can be called within the block.

    `run` yields the results of function(task) in the order in which they are completed, and raises
    the exceptions of `function`. Every task runs in another process, even with one job, so that a
    task that kills its process does not kill the caller.

    Raises:
        InputError: Dask is not installed, or no scheduler answers at the address.
        WorkerKilled: from `run`, with loky; results yielded before are valid. Dask itself repeats
            the tasks of a worker that was killed.
    """
    if workers.backend == "loky":
        yield lambda function, tasks, workers=workers: _run_loky(function, tasks, workers.count)
        return
    with _dask_client(workers.scheduler) as client:
        yield lambda function, tasks, workers=workers: _run_dask(function, tasks, client)


def _run_loky(function, tasks, jobs):
    # joblib would run a single job in this process. Two workers that receive one task at a time
    # do the work of one separate process.
    parallel = joblib.Parallel(
        max(jobs, 2),
        "loky",
        "generator_unordered",
        pre_dispatch="2*n_jobs" if jobs > 1 else 1,
        initializer=prepare_worker,
        initargs=(os.getpid(),),
    )
    try:
        yield from parallel(joblib.delayed(function)(task) for task in tasks)
    except TerminatedWorkerError as error:
        raise WorkerKilled(str(error)) from error


def _run_dask(function, tasks, client):
    # Dask passes the task of a killed worker on to another one, by default up to four times.
    with joblib.parallel_config("dask", client=client):
        parallel = joblib.Parallel(return_as="generator_unordered", pre_dispatch="2*n_jobs")
        try:
            yield from parallel(joblib.delayed(_in_worker)(function, task) for task in tasks)
        except TimeoutError as error:
            address = client.scheduler.address
            raise InputError(
                f"--dask_scheduler={address}: has no worker; start one with: "
                f"dask worker {address} --nthreads 1"
            ) from error


@contextlib.contextmanager
def _dask_client(address):
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            "--backend=dask: Dask is not installed; pip install 'dask[distributed]'"
        ) from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--dask_scheduler={address}: no scheduler answers "
            f"({' '.join(str(error).split())[:120]}); expected the address that `dask "
            "scheduler` prints"
        ) from error
    with client:
        yield client


def _in_worker(function, task):
    prepare_worker()
    return function(task)


def prepare_worker(parent: int | None = None) -> None:
    """Prepares a worker process: one thread, no reaction to Ctrl-C, ends with its parent.

    Further calls in the same process have no effect.

    Args:
        parent: id of the parent process; None for a worker that outlives it.
    """
    if _prepared:
        return
    # For the life of the process: the rounding of matrix products depends on the thread count.
    _prepared.append(threadpool_limits(1))
    _keep_freed_memory()
    if parent is not None:
        # The parent handles Ctrl-C and ends its workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()


def _keep_freed_memory():
    """Lets glibc reuse large freed blocks; returning them to the system costs 10 % of the time."""
    with contextlib.suppress(OSError, AttributeError):  # the C library is not glibc
        c = ctypes.CDLL(None)
        c.mallopt(_M_MMAP_MAX, 0)
        c.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _exit_with(parent):
    """Ends this process after its parent, which cannot end it when it is killed."""
    while os.getppid() == parent:
        time.sleep(0.3)
    os._exit(1)
