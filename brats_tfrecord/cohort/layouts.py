"""Finds the cases of a cohort from the names of its folders and files.

BraTS 2018-2021: `CASE_{t1,t1ce,t2,flair,seg}.nii[.gz]`, one folder for each case or all cases in
one folder, with or without `HGG/` and `LGG/` folders above. BraTS 2023-2024:
`CASE-{t1n,t1c,t2w,t2f,seg}.nii[.gz]`. MSD Task01: see `msd`. Only tables of grades and MSD's
dataset.json are opened.
"""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

from brats_tfrecord import spec
from brats_tfrecord.cohort import grades, msd, naming
from brats_tfrecord.cohort.case import Case, Cohort, ImageFiles
from brats_tfrecord.cohort.walk import Leftovers, folders
from brats_tfrecord.errors import InputError

_ANY_SCHEME = "brats2023"
"""Label scheme of a cohort without masks whose names do not decide one."""

_STRAY_MASK_NOTE: tuple[str, ...] = (
    "no file ends in _seg: the mask under its original name, such as "
    "W39_1998.09.19_Segm.nii, is taken",
)


def find_cases(root: Path | str, layout: str = "auto", label_scheme: str = "auto") -> list[Case]:
    """Returns the cases of `find_cohort`, sorted by id."""
    return find_cohort(root, layout, label_scheme).cases


def find_cohort(root: Path | str, layout: str = "auto", label_scheme: str = "auto") -> Cohort:
    """Finds the cases below `root` and derives layout and label scheme from names alone.

    Args:
        root: a cohort's folder, any folder above it, or the folder of one case.
        layout: one of `naming.LAYOUTS`, then files of other layouts are ignored; or "auto".
        label_scheme: name of a scheme in `spec.LABEL_SCHEMES`, or "auto".

    Raises:
        InputError: `root` is no folder, contains no case, contains a case or a modality twice, or
            mixes layouts or label schemes; or its names do not decide the label scheme of its
            masks. Cases without a mask take the scheme of the others; where no case has a mask,
            any scheme does.
    """
    _check_choice("--layout", layout, naming.LAYOUTS)
    _check_choice("--label_scheme", label_scheme, spec.LABEL_SCHEMES)
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected one that holds BraTS case folders")
    search = _Search(root, layout, label_scheme)
    for folder, names in folders(root, search.leftovers):
        search.add_folder(folder, names)
    return search.cohort()


class _Search:
    """Collects the cases of a cohort, one folder after the other."""

    def __init__(self, root, layout, label_scheme):
        self.root, self.layout, self.label_scheme = root, layout, label_scheme
        self.cases: dict[str, Case] = {}
        self.grades: dict[str, str | None] = {}
        self.leftovers = Leftovers()
        self.first: Case | None = None
        self.first_labelled: Case | None = None
        self.scheme_without_masks: str | None = None
        self.reason = f"--label_scheme={label_scheme}, whatever the names say"
        # One dict for all cases with the same endings, to save memory.
        self._endings: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}

    def add_folder(self, folder, names):
        """Adds the cases whose files lie directly in `folder`."""
        for name in names:
            if grades.is_grade_table(name):
                self._add_grades(os.path.join(folder, name))
        by_case, unknown = self._sort(folder, names)
        for case in self._msd_cases(folder, unknown):
            self._add(case, folder)
        for (layout, case_id), files in by_case.items():
            if files.keys() == {"seg"}:
                self.leftovers.add("masks without any image", os.path.join(folder, files["seg"]))
                continue
            stray = [name for name in unknown if naming.is_stray_mask(name)]
            takes_stray = layout == "brats2018-2021" and "seg" not in files
            if takes_stray and len(by_case) == len(stray) == 1:  # otherwise it may be another's
                files["seg"], notes = stray[0], _STRAY_MASK_NOTE
                unknown.remove(stray[0])
            else:
                notes = ()
            self._add(self._case(layout, case_id, folder, files, notes), folder)
        for name in unknown:
            self.leftovers.add("NIfTI files of no known name", os.path.join(folder, name))

    def cohort(self):
        """Returns the `Cohort` of all cases that were added."""
        notes = self.leftovers.lines()
        if self.first is None:
            among = f" ({'; '.join(notes)})" if notes else ""
            only = "" if self.layout == "auto" else f" in layout {self.layout}"
            raise InputError(
                f"{self.root}: no case found{only}; expected folders such as BraTS20_Training_001 "
                "holding BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii or .nii.gz, "
                "BraTS-GLI-00000-000 holding BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz, or "
                f"MSD's imagesTr{among}"
            )
        cases = [self.cases[case_id] for case_id in sorted(self.cases)]
        if self.grades:
            cases = [
                replace(case, grade=self.grades.get(case.case_id)) if case.grade is None else case
                for case in cases
            ]
        scheme, reason = self._cohort_scheme()
        cases = [
            case if case.label_scheme == scheme else replace(case, label_scheme=scheme)
            for case in cases
        ]
        return Cohort(self.root, cases, self.first.layout, scheme, reason, notes)

    def _cohort_scheme(self):
        """Returns (label scheme, reason); only cases without a mask may lack one."""
        if self.first_labelled:
            return self.first_labelled.label_scheme, self.reason
        if self.label_scheme != "auto":
            return self.label_scheme, self.reason
        return (self.scheme_without_masks or _ANY_SCHEME, "of no importance: no case has a mask")

    def _accepts(self, layout):
        return self.layout in ("auto", layout)

    def _sort(self, folder, names):
        """Sorts file names into {(layout, case id): {kind: name}} and other NIfTI names."""
        by_case: dict[tuple[str, str], dict[str, str]] = {}
        unknown = []
        for name in names:
            parsed = naming.parse_file(name)
            if not parsed:
                if naming.is_nifti(name):
                    unknown.append(name)
                continue
            layout, case_id, kind = parsed
            if not self._accepts(layout):
                continue
            files = by_case.setdefault((layout, case_id), {})
            if kind in files:
                raise InputError(
                    f"{folder}: two {kind} files for {case_id}, {files[kind]} and {name}; "
                    "remove one of them"
                )
            files[kind] = name
        return by_case, unknown

    def _msd_cases(self, folder, unknown):
        """Yields the MSD cases of a folder and removes the names of its files from `unknown`."""
        if not self._accepts("msd"):
            return
        folder_name = os.path.basename(folder)
        if folder_name == msd.LABEL_FOLDER:
            for name in msd.labels_without_image(folder, unknown):
                self.leftovers.add("masks without any image", os.path.join(folder, name))
            unknown.clear()
        elif folder_name in msd.IMAGE_FOLDERS:
            names = [name for name in unknown if msd.parse_image(name)]
            unknown[:] = [name for name in unknown if not msd.parse_image(name)]
            if names:
                scheme = self._scheme("msd", names[0], folder)
                yield from msd.cases_of_folder(folder, names, scheme)

    def _case(self, layout, case_id, folder, files, notes):
        endings = tuple(
            (kind, files[kind][len(case_id) :]) for kind in spec.MODALITIES if kind in files
        )
        images = ImageFiles(folder, case_id, self._endings.setdefault(endings, dict(endings)))
        mask = Path(folder, files["seg"]) if "seg" in files else None
        return Case(
            case_id,
            naming.patient_of(case_id),
            images,
            mask,
            self._scheme(layout, case_id, folder, labelled=mask is not None),
            grades.grade_of_folder(folder),
            layout,
            notes=notes,
        )

    def _scheme(self, layout, case_id, folder, labelled=False):
        """Returns the label scheme by flag or names; `_ANY_SCHEME` if no mask needs one."""
        if self.label_scheme != "auto":
            return self.label_scheme
        try:
            scheme, reason = naming.scheme_of(layout, case_id, os.path.abspath(folder))
        except InputError:
            if labelled:
                raise
            return _ANY_SCHEME
        if not labelled:
            self.scheme_without_masks = self.scheme_without_masks or scheme
        if self.first_labelled is None:
            self.reason = reason
        return scheme

    def _add(self, case, folder):
        self.first = self.first or case
        self._require_same(case, self.first, "layout")
        if case.mask is not None:
            self.first_labelled = self.first_labelled or case
            self._require_same(case, self.first_labelled, "label_scheme")
        if case.case_id in self.cases:
            first_image = next(iter(self.cases[case.case_id].images.values()))
            raise InputError(
                f"{self.root}: case {case.case_id} lies in two folders, "
                f"{first_image.parent} and {folder}; remove one of them"
            )
        self.cases[case.case_id] = case

    def _require_same(self, case, first, attribute):
        expected, value = getattr(first, attribute), getattr(case, attribute)
        if value != expected:
            raise InputError(
                f"{self.root}: mixes {attribute.replace('_', ' ')}s, {expected} (such as "
                f"{first.case_id}) and {value} (such as {case.case_id}); convert each "
                f"separately, or choose with --{attribute}={expected}|{value}"
            )

    def _add_grades(self, path):
        try:
            table = grades.read_grade_table(path)
        except (OSError, csv.Error):
            self.leftovers.add("tables of grades that cannot be read", path)
            return
        for case_id, grade in table.items():
            if self.grades.setdefault(case_id, grade) != grade:
                self.grades[case_id] = None  # the tables contradict each other


def _check_choice(flag, value, choices):
    if value != "auto" and value not in choices:
        raise InputError(f"{flag}={value}: expected one of auto, {', '.join(choices)}")
