"""Runs trainings in processes of their own, and keeps the result of each in a file.

ROOT/trainings/NAME.json   the result of a finished training
ROOT/logs/NAME.log         what it printed
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.training.distribution import cpu_memory
from quality.settings import Settings, Training


def core_sets(cores: int, parallel: int) -> list[list[int]]:
    """Returns `parallel` disjoint sets of `cores` processors; empty sets where they have no names.

    Raises:
        ValueError: this process may not use as many.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [[]] * parallel
    available = sorted(os.sched_getaffinity(0))
    if cores * parallel > len(available):
        raise ValueError(f"{cores} x {parallel} processors, of {len(available)}")
    return [available[first * cores : (first + 1) * cores] for first in range(parallel)]


def result_path(root: Path, training: Training) -> Path:
    """Returns the file of a training's result."""
    return root / "trainings" / f"{training.name}.json"


def read_result(root: Path, training: Training) -> dict | None:
    """Reads the result of a training; None if it has not finished."""
    with contextlib.suppress(OSError, ValueError):
        return files.read_json(result_path(root, training))
    return None


def run_all(
    root: Path, script: Path, cohort: Path, trainings, settings: Settings
) -> list[Training]:
    """Runs the trainings without a result, as many at a time as there are core sets.

    Args:
        root: folder of the comparison.
        script: program that calls `serve` with the argument after --child.
        cohort: folder of the cases.
        trainings: in the order in which they are started.
        settings: the settings.

    Returns:
        The trainings that failed.
    """
    todo = [training for training in trainings if read_result(root, training) is None]
    free: queue.SimpleQueue = queue.SimpleQueue()
    for cores in core_sets(settings.cores, settings.parallel):
        free.put(cores)
    children = _Children()
    failed = []
    with concurrent.futures.ThreadPoolExecutor(settings.parallel) as pool:
        try:
            jobs = {
                pool.submit(
                    _run, root, script, cohort, training, settings, free, children
                ): training
                for training in todo
            }
            for number, job in enumerate(concurrent.futures.as_completed(jobs), 1):
                training, error = jobs[job], job.result()
                if error:
                    failed.append(training)
                print(f"{number}/{len(todo)} {training.name}: {error or 'done'}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()
            raise
    return failed


class _Children:
    """The processes that are running, to be stopped with this one."""

    def __init__(self):
        self._running, self._lock, self._stopped = set(), threading.Lock(), False

    def call(self, command, **options):
        """Runs a command in a session of its own; returns its exit code."""
        with self._lock:
            if self._stopped:
                return -signal.SIGTERM
            child = subprocess.Popen(command, start_new_session=True, **options)
            self._running.add(child)
        try:
            return child.wait()
        finally:
            with self._lock:
                self._running.discard(child)

    def stop(self):
        """Ends all processes, and those that they started."""
        with self._lock:
            self._stopped = True
            for child in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGTERM)


def prepare_nnunet(root: Path, script: Path, cohort: Path, settings: Settings) -> None:
    """Prepares the cases for nnU-Net in a process of its own, since nnU-Net forks.

    Raises:
        InputError: it failed.
    """
    task = {"root": str(root), "cohort": str(cohort), "settings": dataclasses.asdict(settings)}
    children = _Children()
    try:
        error = _run_child(script, task, root / "logs" / "nnunet-preparation.log", children)
    except BaseException:
        children.stop()
        raise
    if error:
        raise InputError(f"nnU-Net's preparation {error}")


def _run(root, script, cohort, training, settings, free, children):
    """Runs one training on the next free processors; returns None, or why it failed."""
    cores = free.get()
    task = {
        "root": str(root),
        "cohort": str(cohort),
        "settings": dataclasses.asdict(settings),
        "training": dataclasses.asdict(training),
        "cores": cores,
    }
    try:
        return _run_child(script, task, root / "logs" / f"{training.name}.log", children)
    finally:
        free.put(cores)


def _run_child(script, task, log, children):
    """Runs a child on a task and keeps what it prints; returns None, or why it failed."""
    log.parent.mkdir(exist_ok=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(task["settings"]["cores"]))
    with open(log, "w") as stream:
        code = children.call(
            [sys.executable, str(script), f"--child={json.dumps(task)}"],
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**cpu_memory.tuned(os.environ), **threads, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    if code == 0:
        return None
    lines = log.read_text(errors="replace").strip().splitlines() or [f"exit code {code}"]
    return f"failed: {lines[-1][:200]}; see {log}"
