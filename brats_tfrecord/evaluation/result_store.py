"""Stores the results of an unfinished evaluation, so that it can be resumed.

`OUTPUT_DIR/.evaluation/` belongs to one identity: the settings and inputs that affect every case.
The result of a finished case is written last and atomically, together with the key of the case's
input; a case is finished if its result exists and has the right key. Files are named by digests of
case ids, so a case id never becomes part of a path.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.evaluation.case_results import CaseResult
from brats_tfrecord.wording import plural

FOLDER_NAME = ".evaluation"


class ResultStore:
    """The work folder of an unfinished evaluation; created by `open_store`."""

    def __init__(self, path: Path | str) -> None:
        """Uses the existing folder `path`."""
        self._path = Path(path)

    def save(self, row: CaseResult, key: str) -> None:
        """Saves the result of a finished case with the key of its input."""
        files.write_text(
            self.case_file(row.case_id, "row.json"),
            json.dumps({"key": key, "row": dataclasses.asdict(row)}, allow_nan=False),
        )

    def load(self, case_id: str, key: str) -> CaseResult | None:
        """Returns the saved result of a case, or None if none was saved for this key."""
        try:
            value = files.read_json(self.case_file(case_id, "row.json"))
            texts = {
                name: tuple(value["row"][name])
                for name in ("post_processing", "warnings", "missing")
            }
            row = CaseResult(**{**value["row"], **texts})
        except (OSError, ValueError, KeyError, TypeError):
            return None  # missing, or truncated by a crash: the case is evaluated again
        return row if value["key"] == key and row.case_id == case_id else None

    def case_file(self, case_id: str, kind: str) -> Path:
        """Returns the path of a case's file of this `kind`, such as "picture.png"."""
        return self._path / f"{_digest(case_id)}-{kind}"

    def shared_file(self, name: str) -> Path:
        """Returns the path of a file that belongs to no single case."""
        return self._path / name

    def remove(self) -> None:
        """Removes the folder; first its identity, without which the rest counts as orphaned."""
        (self._path / "identity.json").unlink(missing_ok=True)
        shutil.rmtree(self._path, ignore_errors=True)


@contextlib.contextmanager
def open_store(
    output_dir: Path | str, identity: dict, case_ids: Collection[str]
) -> Iterator[ResultStore]:
    """Opens the `ResultStore` in `output_dir` and locks it.

    Results of an earlier run of the same identity are kept. The folder stays when the block ends,
    so that the next run can resume; `ResultStore.remove` removes it.

    Args:
        output_dir: an existing folder.
        identity: flag -> JSON value of everything that affects all cases alike.
        case_ids: ids of the cases to evaluate.

    Raises:
        InputError: another process evaluates into this folder, or it holds results of another
            identity or of other cases; these are never overwritten.
    """
    path = Path(output_dir) / FOLDER_NAME
    path.mkdir(exist_ok=True)
    try:
        with files.locked(path / "lock"):
            identity = json.loads(json.dumps(identity))
            _refuse_other_report(output_dir, identity, case_ids)
            _claim(path, identity, case_ids)
            yield ResultStore(path)
    except files.Locked as error:
        raise InputError(
            f"--output_dir={output_dir}: another evaluation is writing to this folder ({error}); "
            "wait until it has finished, or choose another folder"
        ) from error


def _refuse_other_report(output_dir, identity, case_ids):
    """Raises InputError if the folder holds a finished report of another evaluation."""
    try:
        value = files.read_json(Path(output_dir) / "metrics.json")
        stored_identity = dict(value["identity"])
        stored_cases = {row["case_id"] for row in value["rows"] if row["status"] != "failed"}
    except (OSError, ValueError, KeyError, TypeError):
        return  # no metrics.json, or one that evaluate.py did not write
    _require_same(
        output_dir, "the report", (stored_identity, stored_cases), (identity, set(case_ids))
    )


def _claim(path, identity, case_ids):
    """Prepares the work folder for `identity`; refuses to delete results of another one."""
    try:
        stored_identity = dict(files.read_json(path / "identity.json"))
    except (OSError, ValueError, TypeError):
        stored_identity = None  # missing, or truncated by a crash
    stored_cases = {entry.name.removesuffix("-row.json") for entry in path.glob("*-row.json")}
    if stored_cases and stored_identity is not None:
        _require_same(
            path.parent,
            "unfinished work",
            (stored_identity, stored_cases),
            (identity, set(map(_digest, case_ids))),
        )
    if stored_identity == identity:
        files.remove_orphans(path)
        return
    (path / "identity.json").unlink(missing_ok=True)
    for entry in path.iterdir():
        if entry.name != "lock":
            entry.unlink()
    files.write_json(path / "identity.json", identity)


def _require_same(output_dir, content, stored, requested):
    """Raises InputError unless the identities agree and no stored case would be lost.

    Args:
        output_dir: folder named in the message.
        content: what the folder holds, for the message.
        stored: (identity, set of cases) in the folder.
        requested: (identity, set of cases) of this evaluation; it may have more cases.
    """
    (stored_identity, stored_cases), (identity, cases) = stored, requested
    differences = [
        f"{name} was {_shown(stored_identity.get(name))}, now {_shown(identity.get(name))}"
        for name in identity | stored_identity
        if stored_identity.get(name) != identity.get(name)
    ]
    if stored_cases - cases:
        differences.append(
            f"{len(stored_cases - cases)} of its {plural(len(stored_cases), 'case')} are not "
            f"among the {len(cases)} to evaluate"
        )
    if differences:
        raise InputError(
            f"--output_dir={output_dir}: holds {content} of another evaluation: "
            f"{', '.join(differences)}; choose another folder, or remove this one"
        )


def _shown(value):
    """A value of an identity as text; digests are shortened."""
    text = "not given" if value is None else str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text


def _digest(case_id):
    return hashlib.sha256(case_id.encode("utf-8", "surrogateescape")).hexdigest()[:32]
