"""The files of a case and of a cohort. Nothing in this module opens a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from brats_tfrecord import spec
from brats_tfrecord.errors import CaseError

RELEASE_2023_SUFFIXES = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
"""Canonical modality -> suffix of the file names since BraTS 2023."""


class ImageFiles(Mapping):
    """A mapping from canonical modality to `Path` that stores one folder and shared endings.

    A hundred thousand cases have half a million file names; as `Path` objects they would take a
    gigabyte in every process that plans a conversion.

    Args:
        folder: the folder of the files.
        case_id: the beginning of the file names.
        endings: modality -> the remainder of the file name, in the order of `spec.MODALITIES`.
    """

    __slots__ = ("case_id", "endings", "folder")

    def __init__(self, folder: str, case_id: str, endings: Mapping[str, str]) -> None:
        self.folder = folder
        self.case_id = case_id
        self.endings = endings

    def __getitem__(self, modality: str) -> Path:
        return Path(self.folder, self.case_id + self.endings[modality])

    def __iter__(self) -> Iterator[str]:
        return iter(self.endings)

    def __len__(self) -> int:
        return len(self.endings)

    def __repr__(self) -> str:
        return f"ImageFiles({dict(self)})"


@dataclass(frozen=True, slots=True)
class Case:
    """The files of one examination of one patient.

    A file is a `Path`, or a `content.MemoryFile` for an upload.

    Attributes:
        case_id: unique in the cohort; the prefix of the file names.
        patient_id: shared by all cases of a patient, which are kept in one fold.
        images: canonical modality -> file. Modalities may be missing.
        mask: the segmentation file, or None for an unlabelled case.
        label_scheme: name of the scheme of the mask's values (`spec.LABEL_SCHEMES`).
        grade: "HGG", "LGG" or None if unknown.
        layout: name of the layout (`naming.LAYOUTS`) that the file names follow, or "".
        channels: modality -> index on the fourth axis, if one 4-D file holds the modalities.
        notes: unusual properties of the names, each with its consequence.
    """

    case_id: str
    patient_id: str
    images: Mapping[str, Path]
    mask: Path | None
    label_scheme: str
    grade: str | None
    layout: str = ""
    channels: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the modalities without a file, in the order of `spec.MODALITIES`."""
        return tuple(name for name in spec.MODALITIES if name not in self.images)

    def image(self, modality: str) -> Path:
        """Returns the file of `modality`; raises `CaseError` if it is missing."""
        if modality not in self.images:
            available = ", ".join(name for name in spec.MODALITIES if name in self.images) or "none"
            since_2023 = self.layout == "brats2023-2024"
            suffix = f"-{RELEASE_2023_SUFFIXES[modality]}" if since_2023 else f"_{modality}"
            folder = getattr(self.images, "folder", "")
            expected = (
                "a volume of the 4-D file, listed in its dataset.json"
                if self.channels
                else f"a file named {self.case_id}{suffix}.nii or .nii.gz"
            )
            raise CaseError(
                f"{self.case_id}: no {modality} image{folder and f' in {folder}'}; found "
                f"{available}, expected {expected}; the conversion takes cases that lack a "
                "modality with --allow_missing"
            )
        return self.images[modality]


def missing_notes(modalities: Sequence[str]) -> tuple[str, ...]:
    """Returns the note on a case that was taken without these modalities; none without any."""
    if not modalities:
        return ()
    return (f"no {', '.join(modalities)} image: stored as zeros and marked as missing",)


@dataclass(frozen=True)
class Cohort:
    """The cases below a folder, with the layout and label scheme derived from their names.

    Attributes:
        root: the folder that was searched.
        cases: all `Case`s, sorted by id.
        layout: name of the layout of all cases.
        label_scheme: name of the label scheme of all masks.
        reason: the reason for that label scheme, for people.
        notes: unusual findings that belong to no case, such as files with unknown names.
    """

    root: Path
    cases: list[Case]
    layout: str
    label_scheme: str
    reason: str
    notes: tuple[str, ...] = ()
