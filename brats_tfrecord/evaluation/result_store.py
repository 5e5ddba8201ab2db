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
import re
import shutil
from pathlib import Path

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.evaluation.case_results import CaseResult
from brats_tfrecord.wording import plural

NAME = ".evaluation"


class Journal:
    """The work folder of an evaluation under way; `opened` makes one."""

    def __init__(self, path):
        self._path = Path(path)

    def put(self, row, key):
        """Keeps a finished case: its `CaseResult`, and the key of the input that it is of."""
        files.write_text(
            self.file(row.case_id, "row.json"),
            json.dumps({"key": key, "row": dataclasses.asdict(row)}, allow_nan=False),
        )

    def find(self, case_id, key):
        """The `CaseResult` of a finished case whose input had this key, or None."""
        try:
            value = files.read_json(self.file(case_id, "row.json"))
            texts = {name: tuple(value["row"][name]) for name in ("post_processing", "warnings")}
            row = CaseResult(**{**value["row"], **texts})
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not there, or cut off by a crash: evaluated again
        return row if value["key"] == key and row.case_id == case_id else None

    def file(self, case_id, kind):
        """The file of this `kind`, such as "picture.png", that belongs to a case."""
        return self._path / f"{_digest(case_id)}-{kind}"

    def shared_file(self, name):
        """A file of this name that belongs to no case."""
        return self._path / name

    def remove(self):
        """Forgets everything; the proof of what it belonged to goes first."""
        (self._path / "identity.json").unlink(missing_ok=True)
        shutil.rmtree(self._path, ignore_errors=True)


@contextlib.contextmanager
def opened(output_dir, identity, case_ids):
    """Gives the `Journal` of this identity in `output_dir`, holding its lock.

    What an earlier run of the same identity finished is there. The folder stays when the block
    ends, for the next run; `Journal.remove` removes it.

    Args:
        output_dir: an existing folder.
        identity: flag -> JSON value of whatever shapes every row.
        case_ids: ids of the cases to evaluate.

    Raises:
        InputError: another process evaluates into this folder, or it holds work of another
            identity or on other cases, which nothing overwrites.
    """
    path = Path(output_dir) / NAME
    path.mkdir(exist_ok=True)
    try:
        with files.locked(path / "lock"):
            identity = json.loads(json.dumps(identity))
            _require_same_report(output_dir, identity, case_ids)
            _claim(path, identity, case_ids)
            yield Journal(path)
    except files.Locked as error:
        raise InputError(
            f"--output_dir={output_dir}: another evaluation writes there ({error}); "
            "wait for it, or name another folder"
        ) from error


def _require_same_report(output_dir, identity, case_ids):
    """Refuses to write over a finished report of something else."""
    try:
        value = files.read_json(Path(output_dir) / "metrics.json")
        theirs = dict(value["identity"])
        done = {row["case_id"] for row in value["rows"] if row["status"] != "failed"}
    except (OSError, ValueError, KeyError, TypeError):
        return  # none there, or none of ours
    _require_same(output_dir, "the report", (theirs, done), (identity, set(case_ids)))


def _claim(path, identity, case_ids):
    """Makes the work folder this identity's, and refuses to lose another's finished cases."""
    try:
        theirs = dict(files.read_json(path / "identity.json"))
    except (OSError, ValueError, TypeError):
        theirs = None  # none there, or cut off by a crash
    done = {entry.name.removesuffix("-row.json") for entry in path.glob("*-row.json")}
    if done and theirs is not None:
        _require_same(
            path.parent, "unfinished work", (theirs, done), (identity, set(map(_digest, case_ids)))
        )
    if theirs == identity:
        files.remove_orphans(path)
        return
    (path / "identity.json").unlink(missing_ok=True)
    for entry in path.iterdir():
        if entry.name != "lock":
            entry.unlink()
    files.write_json(path / "identity.json", identity)


def _require_same(output_dir, what, there, here):
    """Compares two (identity, set of cases); cases that are only here may join those there."""
    (theirs, done), (ours, cases) = there, here
    differences = [
        f"{name} was {_shown(theirs.get(name))}, now {_shown(ours.get(name))}"
        for name in ours | theirs
        if theirs.get(name) != ours.get(name)
    ]
    if done - cases:
        differences.append(
            f"{len(done - cases)} of its {plural(len(done), 'case')} are not among "
            f"the {len(cases)} here"
        )
    if differences:
        raise InputError(
            f"--output_dir={output_dir}: holds {what} of another evaluation: "
            f"{', '.join(differences)}; name another folder, or remove this one"
        )


def _shown(value):
    """A value of an identity as text; of a digest, what tells it from others."""
    text = "not given" if value is None else str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text


def _digest(case_id):
    return hashlib.sha256(case_id.encode("utf-8", "surrogateescape")).hexdigest()[:32]
