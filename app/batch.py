"""The cases of a folder and their results; segments all cases in the background."""

import io
import logging
import threading
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from app import intake, memory
from app.jobs import Job, Queue, Result
from app.spool import Spool
from brats_tfrecord import files, spec
from brats_tfrecord.cohort.case import Case
from brats_tfrecord.errors import InputError

_log = logging.getLogger(__name__)

MAX_ARCHIVE = 200 << 20
"""Bytes of the label maps in a ZIP file: 3,000 cases of 60 kB, and the server's memory for it."""

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
        warnings: reasons to doubt the input or the result.
        reason: why it failed, or "".
    """

    has_truth: bool
    status: str = OPEN
    volumes_ml: dict[str, float] | None = None
    dice: dict[str, float | None] | None = None
    seconds: float | None = None
    warnings: tuple[str, ...] = ()
    reason: str = ""


class Batch:
    """The rows of all cases, shared by all sessions. Keeps numbers in memory, no volumes."""

    def __init__(
        self, cases: Iterable[Case], queue: Queue, any_spacing: bool, output_dir: Path | None = None
    ):
        """Starts with every case open.

        Args:
            cases: the cases of the folder.
            queue: runs the segmentations.
            any_spacing: as in `intake.load_case`.
            output_dir: folder for the label maps of finished cases, or None.
        """
        self.output_dir = output_dir
        self._label_maps = Spool(MAX_ARCHIVE)
        self._saved: dict[str, int] = {}  # case id -> hash of its saved label map
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

    def follow(self, case_id: str, warnings: tuple[str, ...], job: Job) -> None:
        """Updates the row of a case when `job` ends, even if no session shows it.

        Args:
            case_id: the case.
            warnings: warnings about its files.
            job: its segmentation.
        """
        self._update(case_id, status=RUNNING)
        job.then(lambda: self._settle(case_id, warnings, job))

    def enter(self, case_id: str, warnings: tuple[str, ...], result: Result) -> None:
        """Writes figures and warnings of a result into the row of a case; saves its label map."""
        try:
            self._save(case_id, result.nifti)
        except OSError as error:
            self._update(
                case_id,
                status=FAILED,
                reason=f"segmented, but --output_dir={self.output_dir} cannot be written "
                f"({error.strerror})",
            )
            return
        figures = result.metrics
        dice = {name: figures[name]["dice"] for name in spec.REGIONS} if figures else None
        self._update(
            case_id,
            status=DONE,
            volumes_ml=result.volumes_ml,
            dice=dice,
            warnings=tuple(dict.fromkeys((*warnings, *result.warnings))),
            reason="",
            seconds=sum(result.seconds.values()),
        )

    def saved_label_maps(self) -> list[str]:
        """Returns the ids of the cases whose label maps `archive` can hold."""
        return self._label_maps.keys()

    def archive(self) -> bytes:
        """Returns a ZIP file of the label maps of finished cases, at most `MAX_ARCHIVE` bytes.

        The maps are stored as they are: they are compressed already.
        """
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for case_id in sorted(self._label_maps.keys()):
                if (nifti := self._label_maps.get(case_id)) is not None:
                    archive.writestr(zipfile.ZipInfo(_file_name(case_id)), nifti)
        return stream.getvalue()

    def _save(self, case_id, nifti):
        """Keeps a label map, and writes it to `output_dir`; once, though pages enter it often."""
        digest = hash(nifti)
        if self._saved.get(case_id) == digest:
            return
        if self.output_dir is not None:
            files.write_bytes(self.output_dir / _file_name(case_id), nifti)
        self._label_maps.put(case_id, nifti)
        self._saved[case_id] = digest

    def _run(self):
        for case_id, row in self.rows.items():
            if self._stop.is_set():
                return
            if row.status != DONE:
                self._segment(case_id)

    def _segment(self, case_id):
        self._update(case_id, status=RUNNING)
        try:
            with memory.READING.reader() as reserve:
                case = intake.load_case(
                    self.cases[case_id], any_spacing=self._any_spacing, reserve=reserve
                )
                job = self._submit(case)
                if job is None:
                    self._update(case_id, status=OPEN)
                    return
                job.wait()
            self._settle(case_id, case.warnings, job)
        except Exception as error:
            if not isinstance(error, InputError):
                _log.exception("reading %s failed", case_id)
            self._fail(case_id, error)

    def _settle(self, case_id, warnings, job):
        if job.result is not None:
            self.enter(case_id, warnings, job.result)
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


def _file_name(case_id):
    return f"{files.safe_file_name(case_id)}_prediction.nii.gz"
