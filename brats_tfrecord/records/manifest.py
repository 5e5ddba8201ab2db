"""The manifest of a dataset and the sidecars of its shards, with exact counts and offsets."""

import collections
import dataclasses
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brats_tfrecord import files, spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import shards

FILE_NAME = "dataset.json"
SCHEMA = 4
"""Schema 2 had no byte offsets, schema 3 no digests of the voxels."""


@dataclass(frozen=True)
class Shard:
    """A finished shard.

    Attributes:
        name: file name.
        fold: fold of its cases; None if they are unlabelled.
        count: number of records.
        bytes: size of the file.
        sha256: hex SHA-256 of the file.
    """

    name: str
    fold: int | None
    count: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class CaseRow:
    """The entry of a case in the manifest and in the sidecar of its shard.

    Attributes:
        case_id, patient_id, grade, labelled: as in the cohort.
        fold: the fold of its shard; None if unlabelled.
        shard: name of the file that holds its record.
        record_offset: byte offset of the record's payload in the shard.
        record_bytes: size of the payload.
        image_offset, mask_offset: byte offsets of the voxels of image and mask in the payload.
        inputs: modality or "seg" -> hex SHA-256 of the input file.
        voxels: modality -> digest of its voxels, as `cohort.voxel_digest.digests_of` returns them.
        key: hex SHA-256 of everything that determines the record: inputs, recipe, versions, names.
        brain_voxels: number of brain voxels.
        brain_voxels_lost: number of brain voxels outside the crop.
        tumour_voxels_lost: number of tumour voxels outside the crop; the record lists them.
        class_voxels: voxels of each class in the uncropped mask; empty if unlabelled.
        warnings: messages to the user about the case.
        missing: modalities that the case lacks. JSON values of complete cases do not have it.
    """

    case_id: str
    patient_id: str
    grade: str | None
    labelled: bool
    fold: int | None
    shard: str
    record_offset: int
    record_bytes: int
    image_offset: int
    mask_offset: int
    inputs: dict[str, str]
    voxels: dict[str, str]
    key: str
    brain_voxels: int
    brain_voxels_lost: int
    tumour_voxels_lost: int
    class_voxels: tuple[int, ...]
    warnings: tuple[str, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A case without a record, and the reason."""

    case_id: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """The contents of `dataset.json`.

    Attributes:
        root: folder of the dataset.
        recipe: the preprocessing of its cases.
        modalities: names of the image channels.
        label_scheme: label scheme of the cohort.
        folds: number of folds.
        seed: seed of the assignment to folds and shards.
        shards, cases: in the order of the shards and of their records.
        failures: cases without a record, sorted by case id.
        versions: package -> version, of the packages that the records depend on.
        fingerprint: hex SHA-256 of `dataset.json`, which covers the SHA-256 of every shard.
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
    def crop_shape(self) -> tuple[int, int, int]:
        """(X, Y, Z) of the image of every record."""
        return self.recipe.crop_shape

    def shard_paths(self, folds: Collection[int | None]) -> list[Path]:
        """Lists the non-empty shards of some folds in order; the fold None is the unlabelled."""
        return [
            self.root / shard.name for shard in self.shards if shard.fold in folds and shard.count
        ]

    def case_ids(self, folds: Collection[int | None]) -> list[str]:
        """Lists the ids of the cases of some folds, sorted; the fold None is the unlabelled."""
        return sorted(case.case_id for case in self.cases if case.fold in folds)


@dataclass(frozen=True)
class Head:
    """The entries of a manifest that are not about single cases or shards; see `Manifest`.

    Attributes:
        layout: layout of the cohort, to find its cases again.
        how_to_read: keyword arguments of `nifti.read_case`, to read them again.
    """

    recipe: Recipe
    layout: str
    how_to_read: dict[str, Any]
    scheme: spec.LabelScheme
    folds: int
    seed: int
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Returns the entries as JSON values."""
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


def sidecar(
    shard: Shard, recipe: Recipe, cases: Sequence[CaseRow], failures: Sequence[Failure]
) -> dict[str, Any]:
    """Returns the JSON value of a shard's sidecar; `cases` are in the order of the records."""
    return {
        "schema": SCHEMA,
        "shard": dataclasses.asdict(shard),
        "recipe": recipe.to_json(),
        "cases": [row_to_json(case) for case in cases],
        "failures": [
            dataclasses.asdict(failure) for failure in sorted(failures, key=lambda f: f.case_id)
        ],
    }


@dataclass
class ConversionSummary:
    """The result of a conversion, summed over its cases.

    Attributes:
        cases: number of cases with a record.
        failures: cases without a record.
        brain_voxels, brain_voxels_lost, tumour_voxels, tumour_voxels_lost: sums of `CaseRow`.
        duplicates: pairs of case ids that have the voxels of an image in common.
        missing: modality -> number of cases that lack it.
    """

    cases: int = 0
    failures: list[Failure] = dataclasses.field(default_factory=list)
    brain_voxels: int = 0
    brain_voxels_lost: int = 0
    tumour_voxels: int = 0
    tumour_voxels_lost: int = 0
    duplicates: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    missing: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    _seen: dict[bytes, str] = dataclasses.field(default_factory=dict)

    def add(self, row: dict[str, Any]) -> None:
        """Adds the JSON value of a `CaseRow`."""
        case_id = row["case_id"]
        firsts = [
            self._seen.setdefault(bytes.fromhex(digest)[:12], case_id)
            for digest in row["voxels"].values()
        ]
        self.duplicates += [(first, case_id) for first in dict.fromkeys(firsts) if first != case_id]
        self.cases += 1
        self.missing.update(row.get("missing", ()))
        for name in ("brain_voxels", "brain_voxels_lost", "tumour_voxels_lost"):
            setattr(self, name, getattr(self, name) + row[name])
        self.tumour_voxels += sum(row["class_voxels"][1:])


def write(root: Path | str, plans: Sequence[shards.ShardPlan], head: Head) -> ConversionSummary:
    """Writes `dataset.json` from the sidecars of the shards.

    Sidecars are read one after the other and rows written at once, so that the rows of a large
    cohort are never in memory together.
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
        failure_lines = [_line(dataclasses.asdict(failure)) for failure in failures]
        for name, rows in (("shards", lines), ("failures", failure_lines)):
            stream.write(f'\n  ],\n  "{name}": [' + ",".join(rows))
        stream.write("\n  ]\n}\n")
    return summary


def _line(value):
    return "\n    " + json.dumps(value, sort_keys=True, allow_nan=False)


def load(root: Path | str) -> Manifest:
    """Reads the manifest of the dataset in `root`.

    Raises:
        InputError: `root` is not a finished dataset, has another schema, or lacks a shard.
    """
    root = Path(root)
    path = root / FILE_NAME
    require_finished(root)
    try:
        value = files.read_json(path)
        schema = value["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: is not a manifest of convert_to_tfrecord.py; convert the cohort again"
        ) from error
    require_schema(path, schema)
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


def require_finished(root: Path) -> None:
    """Raises `InputError` if the folder `root` holds no finished dataset."""
    if (root / FILE_NAME).is_file():
        return
    if root.is_dir() and any(shards.parse_shard_name(entry.name) for entry in root.iterdir()):
        raise InputError(
            f"{root}: its conversion has not finished; run convert_to_tfrecord.py again"
        )
    raise InputError(
        f"{root}: is not a dataset ({FILE_NAME} is missing); expected the --output_dir of "
        "convert_to_tfrecord.py"
    )


def require_schema(source: Path | str, schema: Any) -> None:
    """Raises `InputError` that names `source` if `schema` is not the schema of this version."""
    if schema != SCHEMA:
        raise InputError(
            f"{source}: has schema {schema}, this version reads {SCHEMA}; run "
            "convert_to_tfrecord.py with the same --input_dir and a new --output_dir, or use the "
            "version that wrote it"
        )


def row_to_json(row: CaseRow) -> dict[str, Any]:
    """Returns the JSON value of a `CaseRow`; that of a complete case has no entry `missing`."""
    entry = dataclasses.asdict(row)
    if not row.missing:
        del entry["missing"]
    return entry


def row_from_json(entry: dict[str, Any]) -> CaseRow:
    """Returns the `CaseRow` of a JSON value."""
    return CaseRow(
        **{
            **entry,
            "class_voxels": tuple(entry["class_voxels"]),
            "warnings": tuple(entry["warnings"]),
            "missing": tuple(entry.get("missing", ())),
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
