"""Finds the cases of a cohort by the names of its folders and files.

BraTS 2018-2020: `BraTS20_Training_001/BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii[.gz]`,
flat, or sorted by grade under `HGG/` and `LGG/`; validation folders have no `seg`.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from brats_tfrecord import spec
from brats_tfrecord.errors import CaseError, InputError

_FILE = re.compile(r"(?P<case>.+)_(?P<kind>t1|t1ce|t2|flair|seg)\.nii(\.gz)?", re.IGNORECASE)
_GRADES = ("HGG", "LGG")


@dataclass(frozen=True)
class Case:
    """One examination of one patient, as files.

    Attributes:
        case_id: unique in the cohort; the prefix of the file names.
        patient_id: cases of one patient share it, and therefore a fold.
        images: canonical modality -> file. May lack modalities; reading then says so.
        mask: the segmentation file, or None for an unlabelled case.
        label_scheme: name of the scheme of the mask's values (`spec.LABEL_SCHEMES`).
        grade: "HGG", "LGG" or None where it is not known.
    """

    case_id: str
    patient_id: str
    images: Mapping[str, Path]
    mask: Path | None
    label_scheme: str
    grade: str | None

    def image(self, modality):
        """The file of `modality`; raises `CaseError` naming what is there if it is missing."""
        if modality not in self.images:
            there = ", ".join(name for name in spec.MODALITIES if name in self.images) or "none"
            raise CaseError(
                f"{self.case_id}: no {modality} image; found {there}, expected a file named "
                f"{self.case_id}_{modality}.nii or .nii.gz beside them"
            )
        return self.images[modality]


def find_cases(root):
    """Returns the cases below `root`, sorted by id.

    Args:
        root: a cohort's folder, any folder above it, or one case's own folder.

    Raises:
        InputError: `root` is no folder, holds no case, or names one case or file twice.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected one that holds BraTS case folders")
    cases, seen = {}, set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder met before, or a circle of links
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        for case in _cases_of_folder(Path(folder), sorted(names)):
            if case.case_id in cases:
                first = next(iter(cases[case.case_id].images.values())).parent
                raise InputError(
                    f"{root}: case {case.case_id} lies in two folders, {first} and {folder}; "
                    "remove one of them"
                )
            cases[case.case_id] = case
    if not cases:
        raise InputError(
            f"{root}: no case found; expected folders such as BraTS20_Training_001 holding "
            "BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii or .nii.gz"
        )
    return [cases[case_id] for case_id in sorted(cases)]


def _cases_of_folder(folder, names):
    """Yields the cases whose files lie directly in `folder`."""
    files = {}
    for name in names:
        match = _FILE.fullmatch(name)
        if not match or name.startswith("."):
            continue
        kinds = files.setdefault(match["case"], {})
        kind = match["kind"].lower()
        if kind in kinds:
            raise InputError(
                f"{folder}: two {kind} files for {match['case']}, {kinds[kind].name} and {name}; "
                "remove one of them"
            )
        kinds[kind] = folder / name
    for case_id, kinds in files.items():
        images = {kind: kinds[kind] for kind in spec.MODALITIES if kind in kinds}
        if images:
            yield Case(
                case_id=case_id,
                patient_id=case_id,
                images=images,
                mask=kinds.get("seg"),
                label_scheme="brats2020",
                grade=next((part for part in folder.parts if part in _GRADES), None),
            )
