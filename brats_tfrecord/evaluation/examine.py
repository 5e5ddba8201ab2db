"""One case of an evaluation: segmented, scored, drawn, and kept."""

import sys
import time
from pathlib import Path

from tqdm import tqdm

from brats_tfrecord import files, metrics
from brats_tfrecord.errors import CaseError
from brats_tfrecord.evaluation import case_results, subjects
from brats_tfrecord.evaluation.baselines import Baselines
from brats_tfrecord.metrics import extent


class Examiner:
    """Turns `subjects.Subject`s into `case_results.CaseResult`s, one at a time."""

    def __init__(self, segmenter, options, kept, draw):
        """Takes the tools of an evaluation.

        Args:
            segmenter: `serving.predict.Segmenter`.
            options: `evaluate_options.EvaluateOptions`.
            kept: `result_store.Journal`.
            draw: as in `evaluate.evaluate`.
        """
        self._segmenter, self._options, self._kept = segmenter, options, kept
        self._draw_case = draw
        self._folder = Path(options.output_dir) / "segmentations"

    def row(self, subject):
        """The row of one case; one that fails has a row that says why.

        Returns:
            (`CaseResult`, whether an earlier run had made it). Failures are tried again.

        Raises:
            OSError: the disk is full, which is no case's fault.
        """
        use = self._segmenter.card.use_of(subject.case_id)
        try:
            key = subject.key()
            row = self._earlier(subject, key)
            if row is not None:
                return row, True
            row = self._examine(subject, use)
            self._kept.put(row, key)
            return row, False
        except CaseError as error:
            reason = str(error)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in files.DISK_FULL:
                raise
            reason = _reason(subject.case_id, error)
        return case_results.CaseResult(
            subject.case_id, subject.patient_id, subject.grade, use, "failed", reason
        ), False

    def _earlier(self, subject, key):
        """What an earlier run kept of the case, if it is all that this one asks for.

        A picture that could not be drawn is asked for again, as failures are.
        """
        row = self._kept.find(subject.case_id, key)
        asked = []
        if self._options.write_segmentations:
            asked.append(self._path(subject))
        if self._options.pictures:
            asked.append(self._kept.file(subject.case_id, "picture.png"))
        return row if all(path.is_file() for path in asked) else None

    def _examine(self, subject, use):
        began = time.perf_counter()
        examined = subject.examine(self._segmenter)
        segmentation, truth = examined.segmentation, examined.truth
        scores = self._scores(examined)
        stages = {
            **examined.stages,
            "metrics": time.perf_counter() - began - sum(examined.stages.values()),
        }
        writing = time.perf_counter()
        if self._options.write_segmentations:
            segmentation.write(self._path(subject))
        if self._options.threshold_baselines and truth is not None:
            Baselines(self._kept).add(subject.case_id, examined.volumes, truth)
        if self._options.pictures:
            self._draw(subject.case_id, examined)
        done = time.perf_counter()
        return case_results.CaseResult(
            subject.case_id,
            subject.patient_id,
            subject.grade,
            use,
            "unlabelled" if truth is None else "ok",
            **scores,
            crop=examined.crop,
            volumes_ml=dict(segmentation.volumes_ml),
            stages={**stages, "pictures and files": done - writing},
            seconds=done - began,
            post_processing=segmentation.post_processing,
            warnings=segmentation.warnings,
        )

    def _scores(self, examined):
        """The fields of a row that rest on a truth."""
        segmentation, truth = examined.segmentation, examined.truth
        if truth is None:
            return {}
        spacing_mm, scheme = segmentation.geometry.spacing_mm, self._segmenter.scheme
        matrix = metrics.confusion(truth, segmentation.classes, scheme.classes)
        return {
            "metrics": metrics.case_metrics(
                truth, segmentation.classes, spacing_mm, self._options.rules, scheme.classes
            ),
            "truth_ml": extent.volumes_ml(matrix.sum(axis=1), spacing_mm, scheme.classes),
            "confusion": matrix.tolist(),
        }

    def _draw(self, case_id, examined):
        """Keeps the case's picture; a picture that cannot be drawn costs nothing but itself."""
        name = next(
            name for name in (*subjects.SHOWN, *examined.volumes) if name in examined.volumes
        )
        segmentation = examined.segmentation
        try:
            png = self._draw_case(
                examined.volumes[name],
                examined.truth,
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
        files.write_bytes(self._kept.file(case_id, "picture.png"), png)

    def _path(self, subject):
        return self._folder / f"{file_name(subject.case_id)}.nii.gz"


def _reason(case_id, error):
    """One line for a failure that nobody foresaw, or of a file's."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; expected a file that can be read"
    return f"{case_id}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def file_name(case_id):
    """A case id as the name of a file in its folder: what could leave it is percent-encoded."""
    return "".join(
        f"%{ord(letter):02X}" if letter in "/\\%\0" or (letter == "." and not place) else letter
        for place, letter in enumerate(case_id)
    )
