"""The cases of a folder with what is known of each; segments all of them in the background."""

import logging
import threading
import time
from dataclasses import dataclass, replace

from app import intake
from brats_tfrecord import spec
from brats_tfrecord.errors import InputError

_log = logging.getLogger(__name__)

OPEN, RUNNING, DONE, FAILED = "", "running", "done", "failed"


@dataclass(frozen=True)
class Row:
    """What is known of a case.

    Attributes:
        has_truth: whether there is a mask.
        status: one of the constants above.
        volumes_ml: structure -> millilitres, once it is done.
        dice: region -> Dice, once it is done and where there is a truth.
        seconds: how long it took, once it is done.
        reason: why it failed.
    """

    has_truth: bool
    status: str = OPEN
    volumes_ml: dict | None = None
    dice: dict | None = None
    seconds: float | None = None
    reason: str = ""


class Batch:
    """Shared by all sessions: numbers alone are kept, whatever the number of cases."""

    def __init__(self, cases, queue, any_spacing):
        """Args: the cohort's cases; the `jobs.Queue`; as in `intake.load_case`."""
        self.cases = {case.case_id: case for case in cases}
        self._rows = {case.case_id: Row(case.mask is not None) for case in cases}
        self._queue, self._any_spacing = queue, any_spacing
        self._lock, self._stop, self._thread = threading.Lock(), threading.Event(), None

    @property
    def rows(self):
        """case id -> `Row`, as it is now."""
        with self._lock:
            return dict(self._rows)

    @property
    def running(self):
        """Whether cases are being segmented one after another."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def stopping(self):
        """Whether it was told to stop, and the case at hand is not done yet."""
        return self.running and self._stop.is_set()

    @property
    def busy(self):
        """Whether any of the rows may change by itself."""
        return self.running or any(row.status == RUNNING for row in self.rows.values())

    def start(self):
        """Segments every case that has not been; what failed is tried again."""
        with self._lock:
            if not self.running:
                self._stop.clear()
                self._thread = threading.Thread(target=self._run, name="batch", daemon=True)
                self._thread.start()

    def stop(self):
        """Stops after the case that is being segmented."""
        self._stop.set()

    def follow(self, case_id, job):
        """Takes down how the `jobs.Job` of a case ends, whether or not anyone looks at it then."""
        self._update(case_id, status=RUNNING)
        job.then(lambda: self._settle(case_id, job))

    def enter(self, case_id, result):
        """Takes down the `jobs.Result` of a case, however it came about."""
        dice = result.metrics and {
            region: result.metrics[region]["dice"] for region in spec.REGIONS
        }
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
            job = self._submitted(case)
            if job is None:
                self._update(case_id, status=OPEN)
                return
            job.wait()
            self._settle(case_id, job)
        except Exception as error:
            if not isinstance(error, InputError):
                _log.exception("reading of %s failed", case_id)
            self._fail(case_id, error)

    def _settle(self, case_id, job):
        if job.error is not None:
            self._fail(case_id, job.error)
        else:
            self.enter(case_id, job.result)

    def _fail(self, case_id, error):
        reason = str(error) if isinstance(error, InputError) else type(error).__name__
        self._update(case_id, status=FAILED, reason=reason)

    def _submitted(self, case):
        """Waits for a place in the queue, people who look at a case go first; None if stopped."""
        while not self._stop.is_set():
            try:
                return self._queue.submit(case)
            except InputError:
                time.sleep(1)
        return None

    def _update(self, case_id, **fields):
        with self._lock:
            self._rows[case_id] = replace(self._rows[case_id], **fields)
