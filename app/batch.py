"""The cases of a folder and their results; segments all cases in the background."""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from app import intake
from app.jobs import Job, Queue, Result
from brats_tfrecord import spec
from brats_tfrecord.cohort.case import Case
from brats_tfrecord.errors import InputError

_log = logging.getLogger(__name__)

OPEN, RUNNING, DONE, FAILED = "", "running", "done", "failed"


@dataclass(frozen=True)
class Row:
    """State and figures of a case.

    Attributes:
        has_truth: whether the case has a mask.
        status: `OPEN`, `RUNNING`, `DONE` or `FAILED`.
        volumes_ml: structure -> millilitres; None unless done.
        dice: region -> Dice; None unless done and with a truth.
        seconds: duration of reading and segmentation; None unless done.
        reason: why it failed, or "".
    """

    has_truth: bool
    status: str = OPEN
    volumes_ml: dict[str, float] | None = None
    dice: dict[str, float | None] | None = None
    seconds: float | None = None
    reason: str = ""


class Batch:
    """The rows of all cases, shared by all sessions. Keeps numbers only, no volumes."""

    def __init__(self, cases: Iterable[Case], queue: Queue, any_spacing: bool):
        """Starts with every case open.

        Args:
            cases: the cases of the folder.
            queue: runs the segmentations.
            any_spacing: as in `intake.load_case`.
        """
        self.cases = {case.case_id: case for case in cases}
        self._rows = {case.case_id: Row(case.mask is not None) for case in cases}
        self._queue, self._any_spacing = queue, any_spacing
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def rows(self) -> dict[str, Row]:
        """Snapshot of case id -> `Row`."""
        with self._lock:
            return dict(self._rows)

    @property
    def running(self) -> bool:
        """Whether all cases are being segmented, one after another."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called and the current case is not finished."""
        return self.running and self._stop.is_set()

    @property
    def busy(self) -> bool:
        """Whether rows may change without user action."""
        return self.running or any(row.status == RUNNING for row in self.rows.values())

    def start(self) -> None:
        """Starts segmenting every case that is not done, failed ones included."""
        with self._lock:
            if not self.running:
                self._stop.clear()
                self._thread = threading.Thread(target=self._run, name="batch", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Stops after the current case."""
        self._stop.set()

    def follow(self, case_id: str, job: Job) -> None:
        """Updates the row of a case when `job` ends, even if no session shows it."""
        self._update(case_id, status=RUNNING)
        job.then(lambda: self._settle(case_id, job))

    def enter(self, case_id: str, result: Result) -> None:
        """Writes the figures of a result into the row of a case."""
        figures = result.metrics
        dice = {name: figures[name]["dice"] for name in spec.REGIONS} if figures else None
        self._update(
            case_id,
            status=DONE,
            volumes_ml=result.volumes_ml,
            dice=dice,
            reason="",
            seconds=sum(result.seconds.values()),
        )

    def _run(self):
        for case_id, row in self.rows.items():
            if self._stop.is_set():
                return
            if row.status != DONE:
                self._segment(case_id)

    def _segment(self, case_id):
        self._update(case_id, status=RUNNING)
        try:
            case = intake.load_case(self.cases[case_id], any_spacing=self._any_spacing)
            job = self._submit(case)
            if job is None:
                self._update(case_id, status=OPEN)
                return
            job.wait()
            self._settle(case_id, job)
        except Exception as error:
            if not isinstance(error, InputError):
                _log.exception("reading %s failed", case_id)
            self._fail(case_id, error)

    def _settle(self, case_id, job):
        if job.result is not None:
            self.enter(case_id, job.result)
        else:
            self._fail(case_id, job.error)

    def _fail(self, case_id, error):
        reason = str(error) if isinstance(error, InputError) else type(error).__name__
        self._update(case_id, status=FAILED, reason=reason)

    def _submit(self, case):
        """Returns the job; waits while the queue is full, and returns None if stopped meanwhile."""
        while not self._stop.is_set():
            try:
                return self._queue.submit(case)
            except InputError:
                time.sleep(1)
        return None

    def _update(self, case_id, **fields):
        with self._lock:
            self._rows[case_id] = replace(self._rows[case_id], **fields)
