"""Segmentations run in the background, one at a time, while the page stays alive."""

import itertools
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from app import canvas, canvas_layers
from brats_tfrecord import metrics
from brats_tfrecord.errors import InputError
from brats_tfrecord.metrics import extent
from brats_tfrecord.preprocess import preprocessed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What the page keeps of a segmentation: a few MB, for volumes lie compressed.

    Attributes:
        nifti: bytes of the `.nii.gz` label map in the case's own geometry and label values.
        layers: for the canvas: the prediction, its uncertainty, the regions' probabilities.
        volumes_ml: region or class -> millilitres.
        extents: connected tumours, `metrics.extent.Extent`, the largest first.
        metrics: structure -> figures of `metrics.case_metrics`, or None without a truth.
        changes: what post-processing changed, a short text each.
        seconds: stage -> seconds, reading included, in order.
    """

    nifti: bytes
    canvas_layers: tuple[canvas.Layer, ...]
    volumes_ml: dict[str, float]
    extents: tuple[extent.Extent, ...]
    metrics: dict | None
    changes: tuple[str, ...]
    seconds: dict[str, float]

    @property
    def size(self):
        """Bytes that it holds."""
        return len(self.nifti) + sum(len(layer.nifti) for layer in self.layers)


class Queue:
    """Segments for all sessions, one case at a time; keeps results by the content of the case."""

    def __init__(self, segmenter, most_waiting=8, kept_bytes=200 << 20):
        """Args: the `Segmenter`; how many may wait; how much results may take together."""
        self._segmenter, self._most_waiting, self._kept_bytes = segmenter, most_waiting, kept_bytes
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="segment")
        self._jobs = {}  # by the cases' digests, the latest used last
        self._lock = threading.Lock()

    def submit(self, case):
        """The `Job` of `case`: the one there is, or a new one.

        Args:
            case: `scene.Scene`, unpacked when its turn has come, or `intake.LoadedCase`.

        Raises:
            InputError: too many wait already.
        """
        with self._lock:
            job = self._jobs.pop(case.digest, None)
            if job is None or job.error is not None:
                waiting = sum(not other.done for other in self._jobs.values())
                if waiting >= self._most_waiting:
                    raise InputError(
                        f"{waiting} segmentations wait already; try again when some "
                        "of them are done"
                    )
                job = Job(self._pool, self._segmenter, case)
            self._jobs[case.digest] = job
            self._forget()
            return job

    def find(self, digest):
        """The `Job` of the case of this digest, or None."""
        with self._lock:
            job = self._jobs.pop(digest, None)
            if job is not None:
                self._jobs[digest] = job
            return job

    def ahead_of(self, job):
        """How many segmentations are to be done before `job`."""
        with self._lock:
            return sum(
                other.number < job.number and not other.done for other in self._jobs.values()
            )

    def _forget(self):
        done = {digest: job.result.size for digest, job in self._jobs.items() if job.result}
        excess = sum(done.values()) - self._kept_bytes
        for digest, size in done.items():
            if excess <= 0:
                break
            del self._jobs[digest]
            excess -= size


class Job:
    """One segmentation: queued, running, done or failed.

    Attributes:
        digest: of its case.
        number: grows from job to job.
        stages: (name, start on the monotonic clock) of each stage entered so far.
    """

    _latest = 0

    def __init__(self, pool, segmenter, case):
        """Queues the segmentation of `case`, as in `Queue.submit`, on the executor `pool`."""
        Job._latest += 1
        self.number, self.digest, self.stages = Job._latest, case.digest, []
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

    def wait(self):
        """Returns when it has ended."""
        self._future.result()

    def then(self, call):
        """Calls `call` when it has ended, from whatever thread."""
        self._future.add_done_callback(lambda _: call())

    def progress(self):
        """The stages so far as [(name, seconds)]; the last one is running."""
        stages = [*self.stages, (None, time.monotonic())]
        spent = [(name, stop - start) for (name, start), (_, stop) in itertools.pairwise(stages)]
        return [("reading", self._reading), *spent]

    def _run(self, segmenter, case):
        try:
            return self._segmented(segmenter, case.unpacked())
        except Exception as error:
            if not isinstance(error, InputError):
                _log.exception("segmentation of %s failed", case.case_id)
            # A trace would keep the volumes in memory for as long as the error is kept.
            return error.with_traceback(None)

    def _segmented(self, segmenter, case):
        found = segmenter.segment_raw(case.raw, progress=self._enter)
        seconds = {"reading": case.seconds, **found.seconds}
        spacing_mm = case.raw.geometry.spacing_mm
        figures = None
        if case.truth is not None:
            figures = self._timed(
                seconds,
                "metrics",
                lambda: metrics.case_metrics(
                    case.truth, found.classes, spacing_mm, classes=found.card.scheme.classes
                ),
            )
        shown = self._timed(
            seconds,
            "pictures",
            lambda: (
                canvas_layers.label_layer(
                    canvas_layers.PREDICTION, "Prediction", found.classes, found.geometry
                ),
                *canvas_layers.scalar_layers(found, preprocessed.brain_mask(case.raw.volumes)),
            ),
        )
        return Result(
            canvas_layers.zipped(found.labels, found.geometry),
            shown,
            found.volumes_ml,
            tuple(extent.extents(found.classes, spacing_mm)),
            figures,
            found.post_processing,
            seconds,
        )

    def _timed(self, seconds, stage, work):
        self._enter(stage)
        started = time.monotonic()
        result = work()
        seconds[stage] = time.monotonic() - started
        return result

    def _enter(self, stage):
        self.stages.append((stage, time.monotonic()))
