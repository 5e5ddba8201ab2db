"""Runs segmentations in the background, one at a time."""

from __future__ import annotations

import itertools
import logging
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app import canvas, canvas_layers, memory
from app.intake import LoadedCase
from app.scene import Scene
from app.spool import Spool
from brats_tfrecord import metrics
from brats_tfrecord.errors import InputError
from brats_tfrecord.metrics import extent
from brats_tfrecord.preprocess import preprocessed

if TYPE_CHECKING:  # imports TensorFlow, which takes seconds
    from brats_tfrecord.serving.predict import Segmenter

_log = logging.getLogger(__name__)

RULES = "brats2020"
"""Rule set of the figures (`metrics.RULE_SETS`)."""


@dataclass(frozen=True)
class Result:
    """A segmentation as the page keeps it: a few MB, because volumes are compressed.

    Attributes:
        nifti: bytes of the `.nii.gz` label map in the case's own geometry and label values.
        layers: layers of the canvas: prediction, uncertainty, probabilities of the regions.
        volumes_ml: region or class -> millilitres.
        extents: connected tumours, the largest first.
        metrics: structure -> figures of `metrics.case_metrics`, or None without a truth.
        changes: a sentence for each change that post-processing made.
        warnings: a sentence for each reason to doubt the segmentation.
        seconds: stage -> seconds, reading included, in order.
    """

    nifti: bytes
    layers: tuple[canvas.Layer, ...]
    volumes_ml: dict[str, float]
    extents: tuple[extent.Extent, ...]
    metrics: dict[str, dict[str, float | None]] | None
    changes: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: dict[str, float]

    @property
    def size(self) -> int:
        """Number of bytes of the label map and the layers."""
        return len(self.nifti) + sum(len(layer.nifti) for layer in self.layers)


class Queue:
    """Segments the cases of all sessions one after another.

    Results are kept by the digest of the case, so that equal files are segmented once: those used
    last in memory, all of them on disk until their limit is reached (`spool.Spool`).
    """

    def __init__(
        self,
        segmenter: Segmenter,
        most_waiting: int = 8,
        kept_bytes: int = 200 << 20,
        disk_bytes: int = 2 << 30,
    ):
        """Starts with an empty queue.

        Args:
            segmenter: the model.
            most_waiting: number of unfinished segmentations above which `submit` refuses.
            kept_bytes: bytes of all results in memory.
            disk_bytes: bytes of all results on disk.
        """
        self._segmenter, self._most_waiting, self._kept_bytes = segmenter, most_waiting, kept_bytes
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="segment")
        self._spool = Spool(disk_bytes)
        self._jobs: dict[str, Job] = {}  # by digest, the most recently used last
        self._lock = threading.Lock()

    def submit(self, case: Scene | LoadedCase) -> Job:
        """Queues a case, unless a job of equal content exists; returns the job.

        A job that failed is replaced by a new one. A `Scene` is unpacked when its turn comes.

        Raises:
            InputError: too many cases are waiting.
        """
        with self._lock:
            job = self._take(case.digest)
            if job is None or job.error is not None:
                waiting = sum(not queued.done for queued in self._jobs.values())
                if waiting >= self._most_waiting:
                    raise InputError(
                        f"{waiting} segmentations are already waiting; try again when some of "
                        "them are done"
                    )
                job = Job(case.digest, case.seconds)
                job.run_on(self._pool, self._segmenter, case, self._keep)
            self._jobs[case.digest] = job
            self._drop_oldest()
            return job

    def find(self, digest: str) -> Job | None:
        """Returns the job of the case with this digest, or None."""
        with self._lock:
            was_in_memory = digest in self._jobs
            job = self._take(digest)
            if job is not None:
                self._jobs[digest] = job
                if not was_in_memory:
                    self._drop_oldest()
            return job

    def ahead_of(self, job: Job) -> int:
        """Counts the unfinished segmentations that were queued before `job`."""
        with self._lock:
            return sum(
                queued.number < job.number and not queued.done for queued in self._jobs.values()
            )

    def _take(self, digest):
        """Removes a job from memory, or restores it from the disk; None if there is neither."""
        job = self._jobs.pop(digest, None)
        if job is None and (stored := self._spool.get(digest)) is not None:
            job = Job(digest)
            job.finish(pickle.loads(stored))  # written by this process
        return job

    def _keep(self, digest, result):
        self._spool.put(digest, pickle.dumps(result))

    def _drop_oldest(self):
        sizes = {digest: job.result.size for digest, job in self._jobs.items() if job.result}
        excess = sum(sizes.values()) - self._kept_bytes
        for digest, size in sizes.items():
            if excess <= 0:
                break
            del self._jobs[digest]
            excess -= size


class Job:
    """One segmentation: queued, running, done or failed.

    Attributes:
        digest: digest of the case.
        number: increases from job to job.
        stages: (name, start on the monotonic clock) of each stage entered so far.
    """

    _latest = 0

    def __init__(self, digest: str, reading: float = 0):
        """Makes a job that is neither queued nor done; `reading` is in seconds."""
        Job._latest += 1
        self.number, self.digest = Job._latest, digest
        self.stages: list[tuple[str, float]] = []
        self._reading = reading
        self._future: Future[Result | Exception] = Future()

    def run_on(
        self,
        pool: Executor,
        segmenter: Segmenter,
        case: Scene | LoadedCase,
        keep: Callable[[str, Result], object],
    ) -> None:
        """Queues the segmentation of `case` on `pool`; calls `keep` with digest and result."""
        self._future = pool.submit(self._run, segmenter, case, keep)

    def finish(self, result: Result) -> None:
        """Ends the job with a result of an earlier one."""
        self._future.set_result(result)

    @property
    def done(self) -> bool:
        """Whether the job has ended, successfully or not."""
        return self._future.done()

    @property
    def error(self) -> Exception | None:
        """The exception that ended the job, or None."""
        outcome = self._future.result() if self.done else None
        return outcome if isinstance(outcome, Exception) else None

    @property
    def result(self) -> Result | None:
        """The result, or None if the job has not ended or has failed."""
        outcome = self._future.result() if self.done else None
        return outcome if isinstance(outcome, Result) else None

    def wait(self) -> None:
        """Waits until the job has ended."""
        self._future.result()

    def then(self, callback: Callable[[], object]) -> None:
        """Calls `callback` when the job has ended, in any thread."""
        self._future.add_done_callback(lambda _: callback())

    def progress(self) -> list[tuple[str, float]]:
        """Returns the (name, seconds) of each stage so far; the last one is running."""
        starts = [*self.stages, ("", time.monotonic())]
        spent = [(name, stop - start) for (name, start), (_, stop) in itertools.pairwise(starts)]
        return [("reading", self._reading), *spent]

    def _run(
        self, segmenter: Segmenter, case: Scene | LoadedCase, keep: Callable[[str, Result], object]
    ) -> Result | Exception:
        try:
            result = self._segment(segmenter, case.unpacked())
            keep(self.digest, result)
            return result
        except Exception as error:
            if not isinstance(error, InputError):
                _log.exception("segmentation of %s failed", case.case_id)
            # The traceback would keep the volumes in memory for as long as the error is kept.
            return error.with_traceback(None)
        finally:
            memory.return_freed()

    def _segment(self, segmenter: Segmenter, case: LoadedCase) -> Result:
        segmentation = segmenter.segment_raw(case.raw, progress=self._enter)
        seconds = {"reading": case.seconds, **segmentation.seconds}
        spacing_mm = case.raw.geometry.spacing_mm
        truth, figures = case.truth, None
        if truth is not None:
            figures = self._timed(
                seconds,
                "metrics",
                lambda: metrics.case_metrics(
                    truth, segmentation.classes, spacing_mm, RULES, segmentation.card.scheme.classes
                ),
            )
        layers = self._timed(
            seconds, "pictures", lambda: _layers_of(segmentation, case.raw.volumes)
        )
        return Result(
            canvas_layers.zipped(segmentation.labels, segmentation.geometry),
            layers,
            segmentation.volumes_ml,
            tuple(extent.extents(segmentation.classes, spacing_mm)),
            figures,
            segmentation.post_processing,
            segmentation.warnings,
            seconds,
        )

    def _timed(self, seconds: dict[str, float], stage: str, compute: Callable[[], Any]) -> Any:
        """Returns `compute()`; writes its duration to `seconds[stage]`."""
        self._enter(stage)
        started = time.monotonic()
        result = compute()
        seconds[stage] = time.monotonic() - started
        return result

    def _enter(self, stage):
        self.stages.append((stage, time.monotonic()))


def _layers_of(segmentation, volumes):
    """The layers of the canvas, as in `Result.layers`."""
    return (
        canvas_layers.label_layer(
            canvas_layers.PREDICTION, "Prediction", segmentation.classes, segmentation.geometry
        ),
        *canvas_layers.scalar_layers(segmentation, preprocessed.brain_mask(volumes)),
    )
