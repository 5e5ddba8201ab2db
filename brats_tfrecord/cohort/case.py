"""A case and a cohort as names of files: nothing here opens one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from brats_tfrecord import spec
from brats_tfrecord.errors import CaseError

RELEASE_2023_SUFFIXES = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
"""Canonical modality -> suffix of the file names since BraTS 2023."""


class ImageFiles(Mapping):
    """Canonical modality -> `Path`, kept as one folder and endings that cases share.

    A hundred thousand cases hold half a million names; as `Path` objects they would take a
    gigabyte in every process that plans.

    Args:
        folder: the folder of the files.
        case_id: what the file names begin with.
        endings: modality -> rest of the file name; in the order of `spec.MODALITIES`.
    """

    __slots__ = ("case_id", "endings", "folder")

    def __init__(self, folder, case_id, endings):
        self.folder = folder
        self.case_id = case_id
        self.endings = endings

    def __getitem__(self, modality):
        return Path(self.folder, self.case_id + self.endings[modality])

    def __iter__(self):
        return iter(self.endings)

    def __len__(self):
        return len(self.endings)

    def __repr__(self):
        return f"ImageFiles({dict(self)})"


@dataclass(frozen=True, slots=True)
class Case:
    """One examination of one patient, as files.

    Attributes:
        case_id: unique in the cohort; the prefix of the file names.
        patient_id: cases of one patient share it, and therefore a fold.
        images: canonical modality -> file. May lack modalities; reading then says so.
        mask: the segmentation file, or None for an unlabelled case.
        label_scheme: name of the scheme of the mask's values (`spec.LABEL_SCHEMES`).
        grade: "HGG", "LGG" or None where it is not known.
        layout: name of the layout (`naming.LAYOUTS`) that the names follow.
        channels: modality -> index on the fourth axis, where one 4-D file holds all modalities.
        notes: what is unusual in the names, each with what is done about it.
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

    def image(self, modality):
        """The file of `modality`; raises `CaseError` naming what is there if it is missing."""
        if modality not in self.images:
            there = ", ".join(name for name in spec.MODALITIES if name in self.images) or "none"
            since_2023 = self.layout == "brats2023-2024"
            place = getattr(self.images, "folder", "")
            wanted = f"-{RELEASE_2023_SUFFIXES[modality]}" if since_2023 else f"_{modality}"
            raise CaseError(
                f"{self.case_id}: no {modality} image{place and f' in {place}'}; found {there}, "
                "expected a file named "
                f"{self.case_id}{wanted}.nii or .nii.gz beside them"
            )
        return self.images[modality]


@dataclass(frozen=True)
class Cohort:
    """The cases below a folder, and how their names were understood.

    Attributes:
        root: the folder that was searched.
        cases: `Case` by case, sorted by id.
        layout: name of the layout that all cases follow.
        label_scheme: name of the scheme of all masks.
        reason: why it is that scheme, for people.
        notes: what is unusual beside the cases (files of no known name, and the like).
    """

    root: Path
    cases: list[Case]
    layout: str
    label_scheme: str
    reason: str
    notes: tuple[str, ...] = ()
