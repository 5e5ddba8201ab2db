"""Finds the cases of a cohort by the names of its folders and files.

BraTS 2018-2021: `CASE_{t1,t1ce,t2,flair,seg}.nii[.gz]`, a folder a case or all in one, by grade
under `HGG/` and `LGG/` or not. BraTS 2023-2024: `CASE-{t1n,t1c,t2w,t2f,seg}.nii[.gz]`. MSD
Task01: see `msd`. No file is opened here, but for tables of grades and MSD's dataset.json.
"""

import csv
import os
from dataclasses import replace
from pathlib import Path

from brats_tfrecord import spec
from brats_tfrecord.cohort import grades, msd, naming
from brats_tfrecord.cohort.case import Case, Cohort, ImageFiles
from brats_tfrecord.cohort.naming import LAYOUTS
from brats_tfrecord.cohort.walk import Leftovers, folders
from brats_tfrecord.errors import InputError

__all__ = ["LAYOUTS", "Case", "Cohort", "find_cases", "find_cohort"]

_STRAY_MASK_NOTE = (
    "no file ends in _seg: the mask under its original name, such as "
    "W39_1998.09.19_Segm.nii, is taken",
)
_ENDINGS = {}
"""Endings of a case's files -> the one dict of them that all such cases share."""


def find_cases(root, layout="auto", label_scheme="auto"):
    """The cases of `find_cohort`, sorted by id."""
    return find_cohort(root, layout, label_scheme).cases


def find_cohort(root, layout="auto", label_scheme="auto"):
    """Finds the cases below `root` and decides layout and label scheme by names alone.

    Args:
        root: a cohort's folder, any folder above it, or one case's own folder.
        layout: one of `LAYOUTS`, then files of others are left alone; or "auto".
        label_scheme: name of a scheme in `spec.LABEL_SCHEMES`, or "auto".

    Returns:
        a `Cohort`.

    Raises:
        InputError: `root` is no folder, holds no case, names one case or file twice, mixes
            layouts or label schemes, or its names do not tell the label scheme.
    """
    _check_choice("--layout", layout, LAYOUTS)
    _check_choice("--label_scheme", label_scheme, spec.LABEL_SCHEMES)
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected one that holds BraTS case folders")
    search = _Search(root, layout, label_scheme)
    for folder, names in folders(root, search.leftovers):
        search.add_folder(folder, names)
    return search.cohort()


class _Search:
    """What was found so far."""

    def __init__(self, root, layout, label_scheme):
        self.root, self.layout, self.label_scheme = root, layout, label_scheme
        self.cases = {}
        self.grades = {}
        self.leftovers = Leftovers()
        self.first = None
        self.reason = f"--label_scheme={label_scheme}, whatever the names say"

    def add_folder(self, folder, names):
        """Adds the cases whose files lie directly in `folder`."""
        for name in names:
            if grades.is_grade_table(name):
                self._add_grades(os.path.join(folder, name))
        kept, strange = {}, []
        for name in names:
            parsed = naming.parse_file(name)
            if not parsed:
                if naming.is_nifti(name):
                    strange.append(name)
            elif self._wants(parsed[0]):
                self._keep(kept, folder, name, *parsed)
        for case in self._of_msd(folder, strange):
            self._add(case, folder)
        for (layout, case_id), kinds in kept.items():
            if kinds.keys() == {"seg"}:
                self.leftovers.add("masks without any image", os.path.join(folder, kinds["seg"]))
                continue
            notes = ()
            stray = [name for name in strange if naming.is_stray_mask(name)]
            if layout == LAYOUTS[0] and len(kept) == len(stray) == 1 and "seg" not in kinds:
                kinds["seg"], notes = stray[0], _STRAY_MASK_NOTE
                strange.remove(stray[0])
            self._add(self._case(layout, case_id, folder, kinds, notes), folder)
        for name in strange:
            self.leftovers.add("NIfTI files of no known name", os.path.join(folder, name))

    def cohort(self):
        """The `Cohort` of all that was added."""
        notes = self.leftovers.lines()
        if not self.cases:
            among = f" ({'; '.join(notes)})" if notes else ""
            only = "" if self.layout == "auto" else f" in layout {self.layout}"
            raise InputError(
                f"{self.root}: no case found{only}; expected folders such as BraTS20_Training_001 "
                "holding BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii or .nii.gz, "
                "BraTS-GLI-00000-000 holding BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz, or "
                f"MSD's imagesTr{among}"
            )
        found = [self.cases[case_id] for case_id in sorted(self.cases)]
        if self.grades:
            found = [
                replace(case, grade=self.grades.get(case.case_id)) if case.grade is None else case
                for case in found
            ]
        return Cohort(
            self.root, found, self.first.layout, self.first.label_scheme, self.reason, notes
        )

    def _wants(self, layout):
        return self.layout in ("auto", layout)

    def _keep(self, kept, folder, name, layout, case_id, kind):
        kinds = kept.setdefault((layout, case_id), {})
        if kind in kinds:
            raise InputError(
                f"{folder}: two {kind} files for {case_id}, {kinds[kind]} and {name}; "
                "remove one of them"
            )
        kinds[kind] = name

    def _of_msd(self, folder, strange):
        """Yields the MSD cases of a folder and takes their names out of `strange`."""
        if not self._wants("msd"):
            return
        place = os.path.basename(folder)
        if place == msd.LABEL_FOLDER:
            orphans = msd.labels_without_image(folder, strange)
            for name in orphans:
                self.leftovers.add("masks without any image", os.path.join(folder, name))
            strange.clear()
        elif place in msd.IMAGE_FOLDERS:
            names = [name for name in strange if msd.parse_image(name)]
            strange[:] = [name for name in strange if name not in set(names)]
            if names:
                scheme = self._scheme("msd", names[0], folder)
                yield from msd.cases_of_folder(folder, names, scheme)

    def _case(self, layout, case_id, folder, kinds, notes):
        endings = tuple(
            (kind, kinds[kind][len(case_id) :]) for kind in spec.MODALITIES if kind in kinds
        )
        images = ImageFiles(folder, case_id, _ENDINGS.setdefault(endings, dict(endings)))
        mask = Path(folder, kinds["seg"]) if "seg" in kinds else None
        return Case(
            case_id,
            naming.patient_of(case_id),
            images,
            mask,
            self._scheme(layout, case_id, folder),
            grades.grade_of_folder(folder),
            layout,
            notes=notes,
        )

    def _scheme(self, layout, case_id, folder):
        if self.label_scheme != "auto":
            return self.label_scheme
        scheme, reason = naming.scheme_of(layout, case_id, os.path.abspath(folder))
        if self.first is None:
            self.reason = reason
        return scheme

    def _add(self, case, folder):
        self.first = self.first or case
        for flag, ours, theirs in (
            ("layout", case.layout, self.first.layout),
            ("label_scheme", case.label_scheme, self.first.label_scheme),
        ):
            if ours != theirs:
                raise InputError(
                    f"{self.root}: mixes {flag.replace('_', ' ')}s, {theirs} (such as "
                    f"{self.first.case_id}) and {ours} (such as {case.case_id}); convert each on "
                    f"its own, or choose with --{flag}={theirs}|{ours}"
                )
        if case.case_id in self.cases:
            raise InputError(
                f"{self.root}: case {case.case_id} lies in two folders, "
                f"{self.cases[case.case_id].images.folder} and {folder}; remove one "
                "of them"
            )
        self.cases[case.case_id] = case

    def _add_grades(self, path):
        try:
            read = grades.read_grade_table(path)
        except (OSError, csv.Error):
            self.leftovers.add("tables of grades that cannot be read", path)
            return
        for case_id, grade in read.items():
            if self.grades.setdefault(case_id, grade) != grade:
                self.grades[case_id] = None


def _check_choice(flag, value, choices):
    if value != "auto" and value not in choices:
        raise InputError(f"{flag}={value}: expected one of auto, {', '.join(choices)}")
