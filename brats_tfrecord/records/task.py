"""What a worker does: turn one case into one record, or check a shard of an earlier run."""

import contextlib
import dataclasses
import hashlib
import json
import traceback
from dataclasses import dataclass
from pathlib import Path

from brats_tfrecord import files
from brats_tfrecord.cohort import content, nifti
from brats_tfrecord.cohort.case import Case
from brats_tfrecord.errors import CaseError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import example, manifest, processed, tfrecord
from brats_tfrecord.records.work_folder import WorkFolder

STRIKES = 2
"""A case that was begun so often, and took its worker along each time, is given up."""


@dataclass(frozen=True)
class Settings:
    """What all tasks of a conversion share.

    Attributes:
        recipe: `Recipe`.
        how_to_read: keyword arguments of `nifti.read_case`.
        versions: package -> version, of what shapes the bytes.
        work: path of the work folder.
        processed_root: also save processed NIfTI files below this folder; None for none.
    """

    recipe: Recipe
    how_to_read: dict
    versions: dict
    work: Path
    processed_root: Path | None = None

    def key(self, case, inputs):
        """Hex SHA-256 of all that decides the bytes of the record of `case`."""
        return hashlib.sha256(
            json.dumps(
                {
                    "schema": manifest.SCHEMA,
                    "case_id": case.case_id,
                    "patient_id": case.patient_id,
                    "label_scheme": case.label_scheme,
                    "inputs": inputs,
                    "channels": dict(case.channels),
                    "recipe": self.recipe.to_json(),
                    "how_to_read": self.how_to_read,
                    "versions": self.versions,
                },
                sort_keys=True,
            ).encode()
        ).hexdigest()


@dataclass(frozen=True)
class CaseTask:
    """One case to convert."""

    case: Case
    settings: Settings


@dataclass(frozen=True)
class Outcome:
    """What came of a case: the row of its record, or the reason why there is none."""

    case_id: str
    row: manifest.CaseRow | None
    reason: str | None = None
    kept: bool = False


@dataclass(frozen=True)
class ShardTask:
    """A shard of an earlier run to check, and the cases it may hold, by id."""

    path: Path
    cases: dict
    settings: Settings


def convert_case(task):
    """Converts a `CaseTask`, or keeps what an earlier run made of it; returns an `Outcome`.

    A case that fails is reported, never raised; a full disk is no case's fault and is.
    """
    case, work = task.case, WorkFolder(task.settings.work)
    with work.mark(case.case_id) as begun:
        if begun >= STRIKES:
            return killed_outcome(case.case_id)
        try:
            inputs = hash_inputs(case)
            key = task.settings.key(case, inputs)
            row = work.find(key) if _processed_is_there(task) else None
            if row is not None:
                return Outcome(case.case_id, dataclasses.replace(row, grade=case.grade), kept=True)
            row, payload = make_record(case, task.settings, inputs)
            work.put(row, tfrecord.frame(payload))
            return Outcome(case.case_id, row)
        except CaseError as error:
            return Outcome(case.case_id, None, str(error))
        except OSError as error:
            if error.errno in files.DISK_FULL:
                raise
            return Outcome(case.case_id, None, f"{case.case_id}: {error}")
        except MemoryError:
            return Outcome(
                case.case_id,
                None,
                f"{case.case_id}: not enough memory; free some, or convert with fewer --jobs",
            )
        except Exception as error:
            return Outcome(case.case_id, None, _surprise(case, error))


def make_record(case, settings, inputs):
    """(row, payload) of a case, as its files are now.

    Args:
        case: `Case`.
        settings: `Settings`; work folder and processed files are only written by `convert_case`.
        inputs: modality or "seg" -> SHA-256, see `CaseRow`.

    Returns:
        `manifest.CaseRow` without its place, and bytes of the `tf.train.Example`.

    Raises:
        CaseError: the case cannot be used.
    """
    raw = nifti.read_case(case, **settings.how_to_read)
    preprocessed = settings.recipe.apply(raw)
    if settings.processed_root is not None:
        processed.write_processed(settings.processed_root, raw, preprocessed)
    row = manifest.CaseRow(
        case_id=case.case_id,
        patient_id=case.patient_id,
        grade=case.grade,
        labelled=case.mask is not None,
        fold=None,
        shard="",
        inputs=inputs,
        key=settings.key(case, inputs),
        brain_voxels=preprocessed.brain_voxels,
        brain_voxels_lost=preprocessed.brain_voxels_lost,
        tumour_voxels_lost=len(preprocessed.outside_index),
        class_voxels=preprocessed.class_voxels,
        warnings=(*case.notes, *raw.notes, *preprocessed.warnings),
    )
    return row, example.encode(raw, preprocessed, settings.recipe)


def check_shard(task):
    """The ids of the cases that a shard of an earlier run holds as they would be made now.

    Returns:
        (file name, tuple of case ids in the order of the records); none if the shard or its
        sidecar is not whole.
    """
    path = task.path
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        entry = files.read_json(path.with_suffix(".json"))
        shard = entry["shard"]
        if path.stat().st_size == shard["bytes"] and files.sha256(path) == shard["sha256"]:
            rows = map(manifest.row_from_json, entry["cases"])
            return path.name, tuple(row.case_id for row in rows if _is_current(row, task))
    return path.name, ()


def open_shard(task, proven):
    """Turns a shard of an earlier run back into finished cases of the work folder.

    Args:
        task: `ShardTask`.
        proven: ids of the cases worth keeping, from `check_shard`.
    """
    if proven:
        rows = map(
            manifest.row_from_json, json.loads(task.path.with_suffix(".json").read_text())["cases"]
        )
        work = WorkFolder(task.settings.work)
        for row, framed in zip(rows, tfrecord.framed_records(task.path)):
            if row.case_id in proven:
                work.put(dataclasses.replace(row, fold=None, shard=""), (framed,))
    # The proof goes before what it proves.
    task.path.with_suffix(".json").unlink(missing_ok=True)
    task.path.unlink(missing_ok=True)


def killed_outcome(case_id):
    """The `Outcome` of a case that took its worker along twice."""
    return Outcome(
        case_id,
        None,
        f"{case_id}: the worker that converted it was killed, twice, "
        "likely for lack of memory; give it more, or look at its files",
    )


def _is_current(row, task):
    case = task.cases.get(row.case_id)
    try:
        return (
            case is not None
            and row.grade == case.grade
            and _processed_is_there(CaseTask(case, task.settings))
            and task.settings.key(case, hash_inputs(case)) == row.key
        )
    except (OSError, CaseError):  # its files are gone, or no longer files
        return False


def hash_inputs(case):
    """Modality or "seg" -> SHA-256 of its file; a file that holds several is read once.

    Raises:
        CaseError: a file that is not there, or none to read from.
    """
    paths = dict(case.images) | ({"seg": case.mask} if case.mask is not None else {})
    for path in paths.values():
        content.regular_size(path)
    digests = {path: files.sha256(path) for path in set(paths.values())}
    return {name: digests[path] for name, path in paths.items()}


def _processed_is_there(task):
    root = task.settings.processed_root
    return root is None or processed.is_written(root, task.case)


def _surprise(case, error):
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{case.case_id}: a bug of ours, {type(error).__name__}: {error} "
        f"({Path(where.filename).name}:{where.lineno})"
    )
