"""Runs trainings in processes of their own, and keeps the result of each in a file.

ROOT/trainings/NAME.json   the result of a finished training
ROOT/logs/NAME.log         what it printed
"""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from brats_tfrecord import files
from brats_tfrecord.records import manifest
from brats_tfrecord.training.distribution import cpu_memory
from quality import cases as cases_module
from quality.settings import NNUNET, OURS, Settings, Training


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


def _run(root, script, cohort, training, settings, free, children):
    """Runs one training on the next free processors; returns None, or why it failed."""
    cores = free.get()
    task = {
        "root": str(root),
        "cohort": str(cohort),
        "cores": cores,
        "training": dataclasses.asdict(training),
        "settings": dataclasses.asdict(settings),
    }
    log = root / "logs" / f"{training.name}.log"
    log.parent.mkdir(exist_ok=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(settings.cores))
    try:
        with open(log, "w") as stream:
            code = children.call(
                [sys.executable, str(script), f"--child={json.dumps(task)}"],
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**cpu_memory.tuned(os.environ), **threads, "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
    finally:
        free.put(cores)
    if code == 0:
        return None
    lines = log.read_text(errors="replace").strip().splitlines() or [f"exit code {code}"]
    return f"failed: {lines[-1][:200]}; see {log}"


def serve(text: str, started: float) -> None:
    """Runs in the child: trains, predicts the cases of the fold, and writes the result.

    Args:
        text: JSON of the task.
        started: `time.perf_counter` at which the process began its work.
    """
    task = json.loads(text)
    if task["cores"]:
        os.sched_setaffinity(0, task["cores"])
    root, training = Path(task["root"]), Training(**task["training"])
    settings = Settings.from_json(task["settings"])
    dataset = manifest.load(root / "dataset")
    found = cases_module.labelled_cases(Path(task["cohort"]))
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    steps, minutes, predict = _train(root, training, settings, dataset, started)
    began = time.perf_counter()
    scores = {}
    for case_id in dataset.case_ids([training.fold]):
        case = found[case_id]
        figures = cases_module.score(case, predict(case), settings.rules)
        scores[case_id] = {"patient": case.patient_id, **figures}
        print(case_id, figures, flush=True)
    files.write_json(
        result_path(root, training),
        {
            **dataclasses.asdict(training),
            "date": date,
            "steps": steps,
            "minutes": minutes,
            "seconds_a_case": (time.perf_counter() - began) / len(scores),
            "cases": scores,
        },
    )
    shutil.rmtree(root / "models" / training.name / "checkpoints", ignore_errors=True)


def _train(root, training, settings, dataset, started):
    """Trains a contestant; returns (steps, minutes, function from a `Case` to its classes)."""
    kind = training.contestant.partition(":")[0]
    if kind == OURS:
        from quality import ours

        steps, minutes, model = ours.train(root, training, settings)
        return steps, minutes, ours.make_predictor(model)
    deadline = (started, started + 60 * settings.minutes)
    if kind == NNUNET:
        from quality import nnunet

        return nnunet.train(root, training, settings, deadline)
    from quality import monai_networks

    folds = [fold for fold in range(dataset.folds) if fold != training.fold]
    return monai_networks.train(
        root, training, settings, dataset.case_ids(folds), dataset.label_scheme.classes, deadline
    )
