"""What a child process of the comparison does: it trains a contestant, predicts and scores."""

import contextlib
import dataclasses
import datetime
import json
import os
import shutil
import sys
import time
from pathlib import Path

from brats_tfrecord import files
from brats_tfrecord.records import manifest
from quality import cases, runs
from quality.settings import NNUNET, OURS, Settings, Training


def serve(text: str, started: float) -> None:
    """Does the task of a child process: a training, or without one nnU-Net's preparation.

    Args:
        text: JSON of the task.
        started: `time.perf_counter` at which the process began its work.
    """
    task = json.loads(text)
    if task.get("cores"):
        os.sched_setaffinity(0, task["cores"])
    root, settings = Path(task["root"]), Settings.from_json(task["settings"])
    found = cases.labelled_cases(Path(task["cohort"]))
    dataset = manifest.load(root / "dataset")
    if "training" in task:
        _train_and_score(root, Training(**task["training"]), settings, dataset, found, started)
    else:
        from quality import nnunet

        nnunet.prepare(root, found, settings, dataset)


def _train_and_score(root, training, settings, dataset, found, started):
    """Trains, predicts the cases of the fold, and writes the result.

    Args:
        root: folder of the comparison.
        training: the `Training`.
        settings: the `Settings`.
        dataset: the `Manifest`.
        found: case id -> `Case`.
        started: as in `serve`.
    """
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    steps, minutes, predict = _train(root, training, settings, dataset, started)
    began = time.perf_counter()
    scores, how = {}, cases.how_to_read(dataset)
    for case_id in dataset.case_ids([training.fold]):
        case = found[case_id]
        figures = cases.score(case, how, predict(case), settings.rules)
        scores[case_id] = {"patient": case.patient_id, **figures}
        print(case_id, figures, flush=True)
    files.write_json(
        runs.result_path(root, training),
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
    with hidden("tensorflow"):
        from quality import monai_networks
    folds = [fold for fold in range(dataset.folds) if fold != training.fold]
    return monai_networks.train(
        root, training, settings, dataset.case_ids(folds), dataset.label_scheme.classes, deadline
    )


@contextlib.contextmanager
def hidden(package):
    """Context in which a package cannot be imported, unless it has been.

    MONAI imports TensorFlow if it is installed, to find TensorBoard. Where both are, this would
    take seconds of the minutes of MONAI's networks.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None
    try:
        yield
    finally:
        del sys.modules[package]
