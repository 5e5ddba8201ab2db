"""The manifest of a dataset and the sidecars of its shards: exact counts, never inferred."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from brats_tfrecord import files, spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import shards

FILE_NAME = "dataset.json"
SCHEMA = 1


@dataclass(frozen=True)
class Shard:
    """A finished shard: file name, fold (None: unlabelled), records, bytes, hex SHA-256."""

    name: str
    fold: int | None
    count: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class CaseRow:
    """What the manifest tells of one case.

    Attributes:
        case_id, patient_id, grade, labelled: as found in the cohort.
        fold: the fold of its shard; None if unlabelled.
        shard: the file that holds its record.
        inputs: modality or "seg" -> SHA-256 of the input file.
        brain_voxels, brain_voxels_lost: voxels of the brain; those that the crop cut off.
        tumour_voxels_lost: tumour voxels outside the crop (kept apart in the record).
        class_voxels: voxels of each class in the uncropped mask; empty if unlabelled.
        warnings: what a person should know of this case.
    """

    case_id: str
    patient_id: str
    grade: str | None
    labelled: bool
    fold: int | None
    shard: str
    inputs: dict[str, str]
    brain_voxels: int
    brain_voxels_lost: int
    tumour_voxels_lost: int
    class_voxels: tuple[int, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """A case without a record, and why."""

    case_id: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """A dataset as `dataset.json` tells it.

    Attributes:
        root: the dataset's folder.
        recipe: how its records were made.
        modalities: names of the image's channels.
        label_scheme: `spec.LabelScheme` of the cohort.
        folds, seed: of the split.
        shards, cases, failures: in order of shard name and case id.
        versions: of the software that shaped the bytes.
        fingerprint: hex SHA-256 of `dataset.json`, and so of every shard's SHA-256.
    """

    root: Path
    recipe: Recipe
    modalities: tuple[str, ...]
    label_scheme: spec.LabelScheme
    folds: int
    seed: int
    shards: tuple[Shard, ...]
    cases: tuple[CaseRow, ...]
    failures: tuple[Failure, ...]
    versions: dict[str, str]
    fingerprint: str

    @property
    def crop_shape(self):
        """(X, Y, Z) of every record's image."""
        return self.recipe.crop_shape

    def shard_paths(self, folds):
        """Files of the non-empty shards of the given folds (None: the unlabelled), in order."""
        return [self.root / shard.name for shard in self.shards
                if shard.fold in folds and shard.count]

    def case_ids(self, folds):
        """Ids of the cases of the given folds (None: the unlabelled), sorted."""
        return [case.case_id for case in self.cases if case.fold in folds]


def sidecar(shard, recipe, cases, failures):
    """The JSON value of a shard's sidecar."""
    return {
        "schema": SCHEMA,
        "shard": dataclasses.asdict(shard),
        "recipe": recipe.to_json(),
        "cases": [dataclasses.asdict(case) for case in sorted(cases, key=lambda c: c.case_id)],
        "failures": [dataclasses.asdict(failure)
                     for failure in sorted(failures, key=lambda f: f.case_id)],
    }


def write(root, plans, recipe, scheme, folds, seed, versions):
    """Sums the sidecars of `plans` to `dataset.json`; returns the `Manifest`."""
    sidecars = [json.loads((Path(root) / plan.sidecar).read_text()) for plan in plans]
    files.write_json(Path(root) / FILE_NAME, {
        "schema": SCHEMA,
        "recipe": recipe.to_json(),
        "modalities": list(spec.MODALITIES),
        "classes": list(scheme.class_names),
        "label_scheme": scheme.name,
        "folds": folds,
        "seed": seed,
        "shards": [entry["shard"] for entry in sidecars],
        "cases": sorted((case for entry in sidecars for case in entry["cases"]),
                        key=lambda case: case["case_id"]),
        "failures": sorted((failure for entry in sidecars for failure in entry["failures"]),
                           key=lambda failure: failure["case_id"]),
        "versions": versions,
    })
    return load(root)


def load(root):
    """Reads the manifest of the dataset in `root`.

    Raises:
        InputError: `root` is no finished dataset, of another schema, or lacks a shard.
    """
    root = Path(root)
    path = root / FILE_NAME
    if not path.is_file():
        unfinished = root.is_dir() and any(
            shards.parse_shard_name(entry.name) for entry in root.iterdir())
        raise InputError(
            f"{root}: " + ("its conversion has not finished; run convert_to_tfrecord.py again"
                           if unfinished else f"no dataset there ({FILE_NAME} is missing); expected"
                           " the --output_dir of convert_to_tfrecord.py"))
    data = path.read_bytes()
    try:
        value = json.loads(data)
        schema = value["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a manifest of ours; convert the cohort again") from error
    if schema != SCHEMA:
        raise InputError(f"{path}: has schema {schema}, this version reads {SCHEMA}; convert the "
                         "cohort again, or use the version that wrote it")
    try:
        manifest = _from_json(root, value, hashlib.sha256(data).hexdigest())
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({type(error).__name__}: {error}); copy it again, or "
                         "convert the cohort again") from error
    for shard in manifest.shards:
        shard_path = root / shard.name
        size = shard_path.stat().st_size if shard_path.is_file() else None
        if size != shard.bytes:
            state = "is missing" if size is None else f"has {size} bytes"
            raise InputError(f"{shard_path}: this shard {state}, {path.name} says {shard.bytes} "
                             "bytes; copy the dataset again")
    return manifest


def _from_json(root, value, fingerprint):
    return Manifest(
        root=root,
        recipe=Recipe.from_json(value["recipe"]),
        modalities=tuple(value["modalities"]),
        label_scheme=spec.LABEL_SCHEMES[value["label_scheme"]],
        folds=int(value["folds"]),
        seed=value["seed"],
        shards=tuple(Shard(**entry) for entry in value["shards"]),
        cases=tuple(CaseRow(**{**entry, "class_voxels": tuple(entry["class_voxels"]),
                               "warnings": tuple(entry["warnings"])}) for entry in value["cases"]),
        failures=tuple(Failure(**entry) for entry in value["failures"]),
        versions=value["versions"],
        fingerprint=fingerprint,
    )
