"""The work folder of a conversion: finished cases, marks of running cases, and a lock.

A finished case is `KEY.tfrecord`, one record, and `KEY.json`, its row, which is written after it.
KEY is a digest of everything that determines the bytes of the record, so files of equal name have
equal bytes, and a file of an earlier run can be used if its name is right.
"""

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.records import manifest, tfrecord

NAME = ".converting"


class WorkFolder:
    """The folder of the finished cases whose shard is not written yet."""

    def __init__(self, path: Path | str) -> None:
        """Takes the path of an existing folder; `locked` creates it."""
        self.path = Path(path)

    def record(self, key: str) -> Path:
        """Returns the path of the record of a finished case."""
        return self.path / f"{key}.tfrecord"

    def put(self, row: manifest.CaseRow, pieces: Iterable[bytes]) -> None:
        """Stores a finished case.

        Args:
            row: the row of the case.
            pieces: the pieces of its framed record.
        """
        with files.replacing(self.record(row.key), durable=False) as temporary:
            temporary.write_bytes(b"".join(pieces))
        with files.replacing(self.path / f"{row.key}.json", durable=False) as temporary:
            temporary.write_text(json.dumps(manifest.row_to_json(row)))

    def find(self, key: str) -> manifest.CaseRow | None:
        """Returns the row of a finished case; None if row or record are missing or damaged."""
        try:
            row = manifest.row_from_json(json.loads((self.path / f"{key}.json").read_text()))
            [_] = tfrecord.read_records(self.record(key))
            return row
        except (OSError, ValueError, KeyError, TypeError):
            return None  # missing, or truncated by a crash: the case is converted again

    def drop(self, key: str) -> None:
        """Removes a finished case."""
        (self.path / f"{key}.json").unlink(missing_ok=True)
        self.record(key).unlink(missing_ok=True)

    def clear_marks(self) -> None:
        """Removes the marks of the cases that were running when an earlier conversion ended."""
        shutil.rmtree(self._marks, ignore_errors=True)
        self._marks.mkdir()

    @contextlib.contextmanager
    def mark(self, case_id: str) -> Iterator[int]:
        """Marks a case as running; yields the number of earlier attempts that did not return."""
        path = self._marks / case_id
        with open(path, "ab") as stream:
            attempts = stream.tell()
            stream.write(b".")
        try:
            yield attempts
        finally:
            path.unlink(missing_ok=True)

    def running(self) -> list[str]:
        """Lists the ids of the cases that are marked as running, sorted."""
        return sorted(path.name for path in self._marks.iterdir())

    @property
    def _marks(self):
        return self.path / "running"


@contextlib.contextmanager
def locked(root: Path | str) -> Iterator[WorkFolder]:
    """Creates and locks the work folder of the dataset folder `root`.

    The operating system releases the lock when the process ends, even if it is killed.

    Raises:
        InputError: another conversion is writing to `root`.
    """
    folder = Path(root) / NAME
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(folder / "lock"))
        except files.Locked as holder:
            raise InputError(
                f"--output_dir={root}: another conversion is writing to it "
                f"({holder}); wait for it, or name another folder"
            ) from holder
        except FileNotFoundError as error:
            raise InputError(
                f"--output_dir={root}: another conversion has just ended in it; run the command "
                "again"
            ) from error
        work = WorkFolder(folder)
        work.clear_marks()
        yield work


def remove(work: WorkFolder) -> None:
    """Removes the whole folder."""
    shutil.rmtree(work.path, ignore_errors=True)
