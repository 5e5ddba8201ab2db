"""Runs a function over many tasks in other processes: joblib's loky here, or a Dask cluster."""

import contextlib
import ctypes
import dataclasses
import os
import signal
import threading
import time
from dataclasses import dataclass

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError
from threadpoolctl import threadpool_limits

from brats_tfrecord.errors import InputError

BACKENDS = ("loky", "dask")
CONNECT_SECONDS = 20
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_prepared = []


class WorkerKilled(RuntimeError):
    """A worker died in the middle of a task: killed by the kernel, most likely out of memory."""


@dataclass(frozen=True)
class Workers:
    """Which processes do the work.

    Attributes:
        jobs: how many on this machine; -1 is one a core. A Dask cluster has its own number.
        backend: "loky" or "dask".
        scheduler: address of the Dask scheduler.
    """

    jobs: int = -1
    backend: str = "loky"
    scheduler: str | None = None

    def __post_init__(self):
        if self.jobs == 0 or self.jobs < -1:
            raise InputError(
                f"--jobs={self.jobs}: expected the number of worker processes, or -1 for one a core"
            )
        if self.backend == "dask" and not self.scheduler:
            raise InputError("--backend=dask: needs --dask_scheduler=tcp://host:port")
        if self.backend != "dask" and self.scheduler:
            raise InputError(f"--dask_scheduler={self.scheduler}: needs --backend=dask")
        if self.backend == "dask" and self.jobs != -1:
            raise InputError(
                f"--jobs={self.jobs}: a Dask cluster has its own number of workers; "
                "leave --jobs out"
            )

    @property
    def count(self):
        """Processes of this machine that will work."""
        return joblib.cpu_count() if self.jobs == -1 else self.jobs

    def for_tasks(self, count):
        """The same with no more processes than tasks."""
        return self.with_jobs(max(min(self.count, count), 1))

    def with_jobs(self, jobs):
        """The same with at most `jobs` processes; a Dask cluster stays as it is."""
        return self if self.backend == "dask" else dataclasses.replace(self, jobs=jobs)


@contextlib.contextmanager
def open_pool(workers):
    """Yields `run(function, tasks, workers=workers)`, for as long as the block lasts.

    `run` yields the results of function(task) as they come, in any order; tasks are drawn as
    workers get free. Every task runs in another process, with one job too, so that a task that
    kills its process never takes the caller along. What `function` raises comes through.

    Raises:
        InputError: no Dask, or no scheduler at that address.
        WorkerKilled: from `run`, with loky; the results yielded before it stand. Dask repeats
            the tasks of a worker that died by itself.
    """
    if workers.backend == "loky":
        yield lambda function, tasks, workers=workers: _run_loky(function, tasks, workers.count)
        return
    with _dask_client(workers.scheduler) as client:
        yield lambda function, tasks, workers=workers: _run_dask(function, tasks, client)


def _run_loky(function, tasks, jobs):
    # joblib runs one job in this very process; two workers that are handed one task at a time
    # are the process of its own that one job shall have.
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
    # Dask gives the task of a worker that died to another one, four times by default.
    with joblib.parallel_config("dask", client=client):
        parallel = joblib.Parallel(return_as="generator_unordered", pre_dispatch="2*n_jobs")
        try:
            yield from parallel(joblib.delayed(_in_worker)(function, task) for task in tasks)
        except TimeoutError as error:
            address = client.scheduler.address
            raise InputError(
                f"--dask_scheduler={address}: no worker has joined it; start some "
                f"with: dask worker {address} --nthreads 1"
            ) from error


@contextlib.contextmanager
def _dask_client(address):
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            "--backend=dask: Dask is not installed; pip install -c constraints.txt -e '.[cluster]'"
        ) from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--dask_scheduler={address}: no scheduler answers there "
            f"({' '.join(str(error).split())[:120]}); expected the address that `dask "
            "scheduler` prints"
        ) from error
    with client:
        yield client


def _in_worker(function, task):
    prepare_worker()
    return function(task)


def prepare_worker(parent=None):
    """Once in each worker: one thread, no part in Ctrl-C, no life after its parent's.

    Args:
        parent: process id of the parent to leave with; None for none.
    """
    if _prepared:
        return
    # Kept for the life of the process: matrix products round by the number of threads.
    _prepared.append(threadpool_limits(1))
    _keep_freed_memory()
    if parent is not None:
        # The parent alone decides what Ctrl-C means; it ends its workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _keep_freed_memory():
    """Lets glibc use large blocks again: handing them back and faulting them in costs a tenth."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        c = ctypes.CDLL(None)
        c.mallopt(_M_MMAP_MAX, 0)
        c.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _leave_with(parent):
    """A parent killed outright cannot end its workers; they must not work on for nobody."""
    while os.getppid() == parent:
        time.sleep(0.3)
    os._exit(1)
