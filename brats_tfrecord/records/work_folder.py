"""What a conversion keeps while it runs: finished cases, marks of running ones, and a lock.

A finished case is `KEY.tfrecord`, one record, and `KEY.json`, its row, written after it. KEY is a
digest of all that decides the record's bytes: the file's name is the proof that it can be kept,
and whoever writes the same name writes the same bytes.
"""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.records import manifest, tfrecord

NAME = ".converting"


class WorkFolder:
    """The folder of the cases that are not in a sealed shard yet."""

    def __init__(self, path):
        """Of an existing folder; `locked` makes one."""
        self.path = Path(path)

    def record(self, key):
        """The file of a finished case's record."""
        return self.path / f"{key}.tfrecord"

    def put(self, row, pieces):
        """Stores a finished case.

        Args:
            row: its `manifest.CaseRow`.
            pieces: bytes objects that make up its framed record.
        """
        with files.replacing(self.record(row.key), durable=False) as temporary:
            with open(temporary, "wb") as stream:
                stream.writelines(pieces)
        with files.replacing(self.path / f"{row.key}.json", durable=False) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(row)))

    def find(self, key):
        """The `manifest.CaseRow` of a finished case whose record is proved whole, or None."""
        try:
            row = manifest.row_from_json(json.loads((self.path / f"{key}.json").read_text()))
            [_] = tfrecord.read_records(self.record(key))
            return row
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not there, or cut off by a crash: converted again

    def drop(self, key):
        """Forgets a finished case."""
        (self.path / f"{key}.json").unlink(missing_ok=True)
        self.record(key).unlink(missing_ok=True)

    def clear_marks(self):
        """Forgets which cases were running when an earlier conversion ended."""
        shutil.rmtree(self._marks, ignore_errors=True)
        self._marks.mkdir()

    @contextlib.contextmanager
    def mark(self, case_id):
        """Marks a case as running; yields how often it was begun before and never ended."""
        path = self._marks / case_id
        with open(path, "ab") as stream:
            begun = stream.tell()
            stream.write(b".")
        try:
            yield begun
        finally:
            path.unlink(missing_ok=True)

    def running(self):
        """Ids of the cases that were begun and not ended."""
        return sorted(path.name for path in self._marks.iterdir())

    @property
    def _marks(self):
        return self.path / "running"


@contextlib.contextmanager
def locked(root):
    """Yields the `WorkFolder` of the dataset folder `root`, for this process alone.

    The lock is the operating system's and dies with its process, however that ends.

    Raises:
        InputError: another conversion is at work there.
    """
    folder = Path(root) / NAME
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(folder / "lock"))
        except files.Locked as holder:
            raise InputError(
                f"--output_dir={root}: another conversion is writing there "
                f"({holder}); wait for it, or name another folder"
            ) from holder
        except FileNotFoundError as error:
            raise InputError(
                f"--output_dir={root}: another conversion ended there this very "
                "moment; run the command again"
            ) from error
        work = WorkFolder(folder)
        work.clear_marks()
        yield work


def remove(work):
    """Removes the whole folder, when nothing in it is needed any more."""
    shutil.rmtree(work.path, ignore_errors=True)
