"""What an evaluation keeps while it runs, so that a stopped one goes on where it was.

`OUTPUT_DIR/.evaluation/` belongs to one identity: whatever shapes every row alike. A finished case
is its row, written last and atomically, with the key of its own input; so a row that is there and
has the case's key is the proof that the case is done. Files are named by digests of case ids: a
name from outside never becomes a path.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.report.tables import CaseResult

NAME = ".evaluation"


class Journal:
    """The work folder of an evaluation under way; `opened` makes one."""

    def __init__(self, path):
        self._path = Path(path)

    def put(self, row, key):
        """Keeps a finished case: its `CaseResult`, and the key of the input that it is of."""
        files.write_text(self.file(row.case_id, "row.json"), json.dumps(
            {"key": key, "row": dataclasses.asdict(row)}, allow_nan=False))

    def find(self, case_id, key):
        """The `CaseResult` of a finished case whose input had this key, or None."""
        try:
            value = files.read_json(self.file(case_id, "row.json"))
            row = CaseResult(**{**value["row"],
                                "post_processing": tuple(value["row"]["post_processing"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not there, or cut off by a crash: evaluated again
        return row if value["key"] == key and row.case_id == case_id else None

    def file(self, case_id, kind):
        """The file of this `kind`, such as "picture.png", that belongs to a case."""
        digest = hashlib.sha256(case_id.encode("utf-8", "surrogateescape")).hexdigest()
        return self._path / f"{digest[:32]}-{kind}"

    def shared_file(self, name):
        """A file of this name that belongs to no case."""
        return self._path / name

    def remove(self):
        """Forgets everything; the proof of what it belonged to goes first."""
        (self._path / "identity.json").unlink(missing_ok=True)
        shutil.rmtree(self._path, ignore_errors=True)


@contextlib.contextmanager
def opened(output_dir, identity):
    """Gives the `Journal` of this identity in `output_dir`, holding its lock.

    What an earlier run of the same identity finished is there; another identity's is removed. The
    folder stays when the block ends, for the next run; `Journal.remove` removes it.

    Args:
        output_dir: an existing folder.
        identity: JSON value of whatever shapes every row.

    Raises:
        InputError: another process evaluates into this folder.
    """
    path = Path(output_dir) / NAME
    path.mkdir(exist_ok=True)
    try:
        with files.locked(path / "lock"):
            _claim(path, json.loads(json.dumps(identity)))
            yield Journal(path)
    except files.Locked as error:
        raise InputError(f"--output_dir={output_dir}: another evaluation writes there ({error}); "
                         "wait for it, or name another folder") from error


def _claim(path, identity):
    """Empties the folder, but for its lock, unless it is this identity's."""
    with contextlib.suppress(OSError, ValueError):
        if files.read_json(path / "identity.json") == identity:
            files.remove_orphans(path)
            return
    (path / "identity.json").unlink(missing_ok=True)
    for entry in path.iterdir():
        if entry.name != "lock":
            entry.unlink()
    files.write_json(path / "identity.json", identity)
