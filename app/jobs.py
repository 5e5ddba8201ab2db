"""Segmentations run in the background, one at a time, while the page stays alive."""

import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brats_tfrecord import metrics
from brats_tfrecord.errors import InputError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What the page keeps of a segmentation.

    Attributes:
        classes: uint8 [X, Y, Z], canonical class ids, LPS order.
        nifti: bytes of the `.nii.gz` label map in the case's own geometry and label values.
        metrics: region -> figures of `metrics.case_metrics`, or None without a truth.
        seconds: stage -> seconds, reading included, in order.
    """

    classes: np.ndarray
    nifti: bytes
    metrics: dict | None
    seconds: dict


class Job:
    """One segmentation: queued, running, done or failed.

    Attributes:
        stages: (name, start on the monotonic clock) of each stage entered so far.
    """

    def __init__(self, pool, segmenter, case):
        """Queues the segmentation of `case` (`intake.LoadedCase`) on the executor `pool`."""
        self.stages = []
        self._reading = case.seconds
        self._future = pool.submit(self._run, segmenter, case)

    @property
    def done(self):
        """Whether it has ended, well or not."""
        return self._future.done()

    @property
    def error(self):
        """The exception that ended it, or None."""
        outcome = self._future.result() if self.done else None
        return outcome if isinstance(outcome, Exception) else None

    @property
    def result(self):
        """The `Result`, or None while there is none."""
        return self._future.result() if self.done and not self.error else None

    def progress(self):
        """The stages so far as [(name, seconds)]; the last one is running."""
        stages = [*self.stages, (None, time.monotonic())]
        spent = [(name, stop - start) for (name, start), (_, stop) in zip(stages, stages[1:])]
        return [("reading", self._reading), *spent]

    def _run(self, segmenter, case):
        try:
            return self._segmented(segmenter, case)
        except Exception as error:
            if not isinstance(error, InputError):
                _log.exception("segmentation of %s failed", case.raw.case_id)
            # A trace would keep the volumes in memory for as long as the error is kept.
            return error.with_traceback(None)

    def _segmented(self, segmenter, case):
        segmentation = segmenter.segment_raw(case.raw, progress=self._enter)
        seconds = {"reading": case.seconds, **segmentation.seconds}
        figures = None
        if case.truth is not None:
            self._enter("metrics")
            started = time.monotonic()
            figures = metrics.case_metrics(case.truth, segmentation.classes,
                                           case.raw.geometry.spacing_mm)
            seconds["metrics"] = time.monotonic() - started
        return Result(segmentation.classes, _nifti_of(segmentation), figures, seconds)

    def _enter(self, stage):
        self.stages.append((stage, time.monotonic()))


def _nifti_of(segmentation):
    with tempfile.TemporaryDirectory(prefix="brats-result-") as folder:
        path = Path(folder) / "segmentation.nii.gz"
        segmentation.write(path)
        return path.read_bytes()
