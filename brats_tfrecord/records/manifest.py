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
SCHEMA = 2


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
        key: SHA-256 of all that decides the record's bytes: inputs, recipe, versions, names.
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
    key: str
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
        shards, cases: in the order of the shards and of their records.
        failures: in order of case id.
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
        return [
            self.root / shard.name for shard in self.shards if shard.fold in folds and shard.count
        ]

    def case_ids(self, folds):
        """Ids of the cases of the given folds (None: the unlabelled), sorted."""
        return sorted(case.case_id for case in self.cases if case.fold in folds)


@dataclass(frozen=True)
class Head:
    """What is said once of a whole dataset; see `Manifest`.

    `layout` and `how_to_read` (of `nifti.read_case`) are kept for those who read the cohort again.
    """

    recipe: Recipe
    layout: str
    how_to_read: dict
    scheme: spec.LabelScheme
    folds: int
    seed: int
    versions: dict[str, str]

    def to_json(self):
        """Its entries in the manifest."""
        return {
            "schema": SCHEMA,
            "recipe": self.recipe.to_json(),
            "layout": self.layout,
            "how_to_read": self.how_to_read,
            "modalities": list(spec.MODALITIES),
            "classes": list(self.scheme.class_names),
            "label_scheme": self.scheme.name,
            "folds": self.folds,
            "seed": self.seed,
            "versions": self.versions,
        }


def sidecar(shard, recipe, cases, failures):
    """The JSON value of a shard's sidecar; `cases` are its rows in the order of its records."""
    return {
        "schema": SCHEMA,
        "shard": dataclasses.asdict(shard),
        "recipe": recipe.to_json(),
        "cases": [dataclasses.asdict(case) for case in cases],
        "failures": [
            dataclasses.asdict(failure) for failure in sorted(failures, key=lambda f: f.case_id)
        ],
    }


@dataclass
class ConversionSummary:
    """What a conversion came to, summed over its cases.

    Attributes:
        cases: cases with a record.
        failures: list of `Failure`.
        brain_voxels, brain_voxels_lost, tumour_voxels, tumour_voxels_lost: as in `CaseRow`.
        twins: pairs of case ids whose image files are equal.
    """

    cases: int = 0
    failures: list = dataclasses.field(default_factory=list)
    brain_voxels: int = 0
    brain_voxels_lost: int = 0
    tumour_voxels: int = 0
    tumour_voxels_lost: int = 0
    twins: list = dataclasses.field(default_factory=list)
    _seen: dict = dataclasses.field(default_factory=dict)

    def add(self, row):
        """Adds a case's row, as a dict."""
        images = "".join(row["inputs"].get(name, "") for name in spec.MODALITIES)
        digest = hashlib.sha256(images.encode()).digest()[:12]
        if self._seen.setdefault(digest, row["case_id"]) != row["case_id"]:
            self.twins.append((self._seen[digest], row["case_id"]))
        self.cases += 1
        for name in ("brain_voxels", "brain_voxels_lost", "tumour_voxels_lost"):
            setattr(self, name, getattr(self, name) + row[name])
        self.tumour_voxels += sum(row["class_voxels"][1:])


def write(root, plans, head):
    """Sums the sidecars of `plans` to `dataset.json`; returns the `ConversionSummary`.

    Sidecars are read one after the other and rows written as they come, a line each, in the order
    of the shards: what it takes in memory does not grow with the cases.
    """
    root, summary, lines = Path(root), ConversionSummary(), []
    with files.replacing(root / FILE_NAME) as temporary, open(temporary, "w") as stream:
        stream.write(json.dumps(head.to_json(), indent=2, sort_keys=True).removesuffix("\n}"))
        stream.write(',\n  "cases": [')
        for plan in plans:
            entry = json.loads((root / plan.sidecar).read_text())
            lines.append(_line(entry["shard"]))
            summary.failures += [Failure(**failure) for failure in entry["failures"]]
            for row in entry["cases"]:
                stream.write(("," if summary.cases else "") + _line(row))
                summary.add(row)
        failures = sorted(summary.failures, key=lambda failure: failure.case_id)
        for name, rows in (("shards", lines), ("failures", map(_row_line, failures))):
            stream.write(f'\n  ],\n  "{name}": [' + ",".join(rows))
        stream.write("\n  ]\n}\n")
    return summary


def _line(value):
    return "\n    " + json.dumps(value, sort_keys=True, allow_nan=False)


def _row_line(row):
    return _line(dataclasses.asdict(row))


def load(root):
    """Reads the manifest of the dataset in `root`.

    Raises:
        InputError: `root` is no finished dataset, of another schema, or lacks a shard.
    """
    root = Path(root)
    path = root / FILE_NAME
    if not path.is_file():
        unfinished = root.is_dir() and any(
            shards.parse_shard_name(entry.name) for entry in root.iterdir()
        )
        raise InputError(
            f"{root}: "
            + (
                "its conversion has not finished; run convert_to_tfrecord.py again"
                if unfinished
                else f"no dataset there ({FILE_NAME} is missing); expected"
                " the --output_dir of convert_to_tfrecord.py"
            )
        )
    try:
        value = files.read_json(path)
        schema = value["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a manifest of ours; convert the cohort again") from error
    if schema != SCHEMA:
        raise InputError(
            f"{path}: has schema {schema}, this version reads {SCHEMA}; convert the "
            "cohort again, or use the version that wrote it"
        )
    try:
        manifest = _from_json(root, value, files.sha256(path))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: is damaged ({type(error).__name__}: {error}); copy it again, or "
            "convert the cohort again"
        ) from error
    for shard in manifest.shards:
        shard_path = root / shard.name
        size = shard_path.stat().st_size if shard_path.is_file() else None
        if size != shard.bytes:
            state = "is missing" if size is None else f"has {size} bytes"
            raise InputError(
                f"{shard_path}: this shard {state}, {path.name} says {shard.bytes} "
                "bytes; copy the dataset again"
            )
    return manifest


def row_from_json(entry):
    """A `CaseRow` from its JSON value."""
    return CaseRow(
        **{
            **entry,
            "class_voxels": tuple(entry["class_voxels"]),
            "warnings": tuple(entry["warnings"]),
        }
    )


def _from_json(root, value, fingerprint):
    return Manifest(
        root=root,
        recipe=Recipe.from_json(value["recipe"]),
        modalities=tuple(value["modalities"]),
        label_scheme=spec.LABEL_SCHEMES[value["label_scheme"]],
        folds=int(value["folds"]),
        seed=value["seed"],
        shards=tuple(Shard(**entry) for entry in value["shards"]),
        cases=tuple(row_from_json(entry) for entry in value["cases"]),
        failures=tuple(Failure(**entry) for entry in value["failures"]),
        versions=value["versions"],
        fingerprint=fingerprint,
    )
