"""Evaluates one case: segments and scores it, draws its picture and saves the result."""

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from brats_tfrecord import files, metrics
from brats_tfrecord.errors import CaseError
from brats_tfrecord.evaluation.baselines import Baselines
from brats_tfrecord.evaluation.case_results import CaseResult
from brats_tfrecord.evaluation.evaluate_options import EvaluateOptions
from brats_tfrecord.evaluation.evaluation_cases import (
    PICTURE_MODALITIES,
    EvaluationCase,
    SegmentedCase,
)
from brats_tfrecord.evaluation.result_store import ResultStore
from brats_tfrecord.metrics import extent, rano
from brats_tfrecord.serving.predict import Segmenter

DrawCase = Callable[
    [np.ndarray, np.ndarray | None, np.ndarray, str, tuple[float, float, float]], bytes
]
"""Function (volume, truth, prediction, title, spacing_mm) -> PNG bytes of a case's picture."""


class CaseEvaluator:
    """Turns `EvaluationCase`s into `CaseResult`s, one at a time."""

    def __init__(
        self, segmenter: Segmenter, options: EvaluateOptions, store: ResultStore, draw: DrawCase
    ) -> None:
        """Creates an evaluator.

        Args:
            segmenter: the loaded model.
            options: the evaluation's options.
            store: where results and pictures are saved.
            draw: draws a case's picture.
        """
        self._segmenter, self._options, self._store = segmenter, options, store
        self._draw = draw

    def evaluate(self, case: EvaluationCase) -> tuple[CaseResult, bool]:
        """Evaluates one case, or restores its result from an earlier run.

        Returns:
            (result, whether it was restored). A case that fails has a result with the reason; it
            is evaluated again by the next run.

        Raises:
            OSError: the disk is full, which no single case is responsible for.
        """
        try:
            key = case.key()
            row = self._restored(case, key)
            if row is not None:
                return row, True
            row = self._evaluate(case)
            self._store.save(row, key)
            return row, False
        except CaseError as error:
            reason = str(error)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in files.DISK_FULL:
                raise
            reason = _reason(case.case_id, error)
        return self._failed(case, reason), False

    def _failed(self, case, reason):
        """The result of a case that failed; it is recognised by what can be read of it."""
        known = self._segmenter.card.recognise(case.case_id, case.patient_id, case.voxels())
        return CaseResult(
            case.case_id,
            case.patient_id,
            case.grade,
            known.use,
            "failed",
            reason,
            recognised_by=known.by,
        )

    def _restored(self, case, key):
        """The result of an earlier run, or None if it lacks a file that the options ask for.

        A picture that could not be drawn is missing, so its case is evaluated again.
        """
        row = self._store.load(case.case_id, key)
        required = []
        if self._options.write_segmentations:
            required.append(self._segmentation_path(case))
        if self._options.pictures:
            required.append(self._store.case_file(case.case_id, "picture.png"))
        return row if all(path.is_file() for path in required) else None

    def _evaluate(self, case):
        started = time.perf_counter()
        segmented = case.segment(self._segmenter)
        segmentation = segmented.segmentation
        known = self._segmenter.card.recognise(case.case_id, case.patient_id, segmented.voxels)
        scores = self._scores(segmented)
        scored = time.perf_counter()
        self._write_files(case, segmented)
        finished = time.perf_counter()
        return CaseResult(
            case.case_id,
            case.patient_id,
            case.grade,
            known.use,
            "unlabelled" if segmented.truth is None else "ok",
            **scores,
            crop=segmented.crop,
            volumes_ml=dict(segmentation.volumes_ml),
            rano=_rano(segmentation.classes, segmentation.geometry.spacing_mm),
            stages={
                **segmented.stages,
                "metrics": scored - started - sum(segmented.stages.values()),
                "pictures and files": finished - scored,
            },
            seconds=finished - started,
            post_processing=segmentation.post_processing,
            warnings=tuple(dict.fromkeys((*segmented.notes, *segmentation.warnings))),
            recognised_by=known.by,
            missing=segmentation.missing,
        )

    def _scores(self, segmented):
        """The fields of a `CaseResult` that need the true mask; empty without one."""
        segmentation, truth = segmented.segmentation, segmented.truth
        if truth is None:
            return {}
        spacing_mm, scheme = segmentation.geometry.spacing_mm, self._segmenter.scheme
        matrix = metrics.confusion(truth, segmentation.classes, scheme.classes)
        return {
            "metrics": metrics.case_metrics(
                truth, segmentation.classes, spacing_mm, self._options.rules, scheme.classes
            ),
            "truth_ml": extent.volumes_ml(matrix.sum(axis=1), spacing_mm, scheme.classes),
            "truth_rano": _rano(truth, spacing_mm),
            "confusion": matrix.tolist(),
        }

    def _write_files(self, case, segmented):
        """Writes the segmentation, the baselines' voxels and the picture, as the options ask."""
        if self._options.write_segmentations:
            segmented.segmentation.write(self._segmentation_path(case))
        if self._options.threshold_baselines and segmented.truth is not None:
            Baselines(self._store).add(case.case_id, segmented.volumes, segmented.truth)
        if self._options.pictures:
            self._write_picture(case.case_id, segmented)

    def _write_picture(self, case_id: str, segmented: SegmentedCase) -> None:
        """Writes the case's picture; a drawing error is a warning, so that the result is kept."""
        name = next(
            name for name in (*PICTURE_MODALITIES, *segmented.volumes) if name in segmented.volumes
        )
        segmentation = segmented.segmentation
        try:
            png = self._draw(
                segmented.volumes[name],
                segmented.truth,
                segmentation.classes,
                f"{case_id} · {name}",
                segmentation.geometry.spacing_mm,
            )
        except Exception as error:
            tqdm.write(
                f"warning: {case_id}: no picture ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:120]})",
                file=sys.stderr,
            )
            return
        files.write_bytes(self._store.case_file(case_id, "picture.png"), png)

    def _segmentation_path(self, case):
        folder = Path(self._options.output_dir) / "segmentations"
        return folder / f"{files.safe_file_name(case.case_id)}.nii.gz"


def _rano(classes, spacing_mm):
    """The enhancing lesions of a label map in numbers, as a mapping."""
    return dataclasses.asdict(rano.burden(rano.enhancing_lesions(classes, spacing_mm)))


def _reason(case_id, error):
    """One line for an exception that is not a CaseError."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; expected a readable file"
    return f"{case_id}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
