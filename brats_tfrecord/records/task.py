"""The tasks of a worker: converts a case, or checks a shard of an earlier run."""

import contextlib
import dataclasses
import hashlib
import json
import traceback
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brats_tfrecord import files
from brats_tfrecord.cohort import content, nifti, voxel_digest
from brats_tfrecord.cohort.case import Case, missing_notes
from brats_tfrecord.errors import CaseError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import example, manifest, processed, tfrecord
from brats_tfrecord.records.work_folder import WorkFolder

MAX_ATTEMPTS = 2
"""A case whose worker was killed this many times is not tried again."""


@dataclass(frozen=True)
class Settings:
    """The settings that all tasks of a conversion share.

    Attributes:
        recipe: the preprocessing.
        how_to_read: keyword arguments of `nifti.read_case`.
        versions: package -> version, of the packages that the records depend on.
        processed_root: folder for processed NIfTI files; None writes none.
    """

    recipe: Recipe
    how_to_read: dict[str, Any]
    versions: dict[str, str]
    processed_root: Path | None = None

    def key(self, case: Case, inputs: dict[str, str]) -> str:
        """Computes the hex SHA-256 of everything that determines the record of `case`.

        Whether modalities may be missing does not: `inputs` says which are.

        Args:
            case: the case.
            inputs: modality or "seg" -> hex SHA-256 of its file.
        """
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
                    "how_to_read": {
                        name: value
                        for name, value in self.how_to_read.items()
                        if name != "allow_missing"
                    },
                    "versions": self.versions,
                },
                sort_keys=True,
            ).encode()
        ).hexdigest()


@dataclass(frozen=True)
class CaseTask:
    """A case to convert."""

    case: Case
    settings: Settings
    work: WorkFolder


@dataclass(frozen=True)
class Outcome:
    """The result of a case: the row of its record, or the reason why it has none."""

    case_id: str
    row: manifest.CaseRow | None
    reason: str | None = None


@dataclass(frozen=True)
class ShardTask:
    """A shard of an earlier run to check, and the cases it may hold, by id."""

    path: Path
    cases: dict[str, Case]
    settings: Settings
    work: WorkFolder


def convert_case(task: CaseTask) -> Outcome:
    """Converts a case, unless the work folder holds its record from an earlier run.

    The error of a case is returned in the outcome. An error that is not the case's, a full disk,
    is raised.
    """
    case, work = task.case, task.work
    with work.mark(case.case_id) as attempts:
        if attempts >= MAX_ATTEMPTS:
            return killed_outcome(case.case_id)
        try:
            inputs = hash_inputs(case)
            key = task.settings.key(case, inputs)
            row = work.find(key) if _has_processed_files(case, task.settings) else None
            if row is not None:
                return Outcome(case.case_id, dataclasses.replace(row, grade=case.grade))
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
            return Outcome(case.case_id, None, _unexpected(case, error))


def make_record(
    case: Case, settings: Settings, inputs: dict[str, str]
) -> tuple[manifest.CaseRow, bytes]:
    """Reads and preprocesses a case and serialises it.

    Args:
        case: the case.
        settings: the settings.
        inputs: modality or "seg" -> hex SHA-256 of its file.

    Returns:
        the row, whose fold, shard and record offset are not set yet, and the record's payload.

    Raises:
        CaseError: the case cannot be used.
    """
    raw = nifti.read_case(case, **settings.how_to_read)
    preprocessed = settings.recipe.apply(raw)
    if settings.processed_root is not None:
        processed.write_processed(settings.processed_root, raw, preprocessed)
    payload = example.encode(raw, preprocessed, settings.recipe)
    offsets = example.voxel_offsets(payload)
    row = manifest.CaseRow(
        case_id=case.case_id,
        patient_id=case.patient_id,
        grade=case.grade,
        labelled=case.mask is not None,
        fold=None,
        shard="",
        record_offset=0,
        record_bytes=len(payload),
        image_offset=offsets["image"],
        mask_offset=offsets["mask"],
        inputs=inputs,
        voxels=voxel_digest.digests_of(raw.modalities, raw.volumes),
        key=settings.key(case, inputs),
        brain_voxels=preprocessed.brain_voxels,
        brain_voxels_lost=preprocessed.brain_voxels_lost,
        tumour_voxels_lost=len(preprocessed.outside_index),
        class_voxels=preprocessed.class_voxels,
        warnings=(*case.notes, *missing_notes(raw.missing), *raw.notes, *preprocessed.warnings),
        missing=raw.missing,
    )
    return row, payload


def find_current_cases(task: ShardTask) -> tuple[str, tuple[str, ...]]:
    """Finds the cases of a shard of an earlier run whose records need not be made again.

    Returns:
        the file name, and the case ids in the order of the records; none if the shard or its
        sidecar is damaged.
    """
    path = task.path
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        entry = files.read_json(path.with_suffix(".json"))
        shard = entry["shard"]
        if path.stat().st_size == shard["bytes"] and files.sha256(path) == shard["sha256"]:
            rows = map(manifest.row_from_json, entry["cases"])
            return path.name, tuple(row.case_id for row in rows if _is_current(row, task))
    return path.name, ()


def open_shard(task: ShardTask, current: Collection[str]) -> None:
    """Moves the records of a shard of an earlier run to the work folder and removes the shard.

    Args:
        task: the shard.
        current: ids of the cases to keep, from `find_current_cases`.
    """
    if current:
        sidecar = files.read_json(task.path.with_suffix(".json"))
        rows = map(manifest.row_from_json, sidecar["cases"])
        for row, framed in zip(rows, tfrecord.framed_records(task.path)):
            if row.case_id in current:
                unplaced = dataclasses.replace(row, fold=None, shard="", record_offset=0)
                task.work.put(unplaced, (framed,))
    # A shard without sidecar is not trusted, so the sidecar is removed first.
    task.path.with_suffix(".json").unlink(missing_ok=True)
    task.path.unlink(missing_ok=True)


def killed_outcome(case_id: str) -> Outcome:
    """Returns the outcome of a case whose worker was killed each time."""
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
            and _has_processed_files(case, task.settings)
            and task.settings.key(case, hash_inputs(case)) == row.key
        )
    except (OSError, CaseError):  # its input files are missing or unreadable
        return False


def hash_inputs(case: Case) -> dict[str, str]:
    """Computes modality or "seg" -> hex SHA-256 of its file; reads a shared file once.

    Raises:
        CaseError: a file is missing, or is not a regular file.
    """
    paths = dict(case.images) | ({"seg": case.mask} if case.mask is not None else {})
    for path in paths.values():
        content.regular_size(path)
    digests = {path: files.sha256(path) for path in set(paths.values())}
    return {name: digests[path] for name, path in paths.items()}


def _has_processed_files(case, settings):
    root = settings.processed_root
    return root is None or processed.is_written(root, case)


def _unexpected(case, error):
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{case.case_id}: a bug of this program, {type(error).__name__}: {error} "
        f"({Path(where.filename).name}:{where.lineno})"
    )
