"""Derives layout, case, modality, patient and label scheme from names of files and folders.

The label scheme cannot be derived from the values of a mask: 4 is the enhancing tumour until 2021
and the resection cavity in 2024. If the names do not decide it either, the user must.
"""

import re

from brats_tfrecord import spec
from brats_tfrecord.cohort.case import RELEASE_2023_SUFFIXES
from brats_tfrecord.errors import InputError

LAYOUTS = ("brats2018-2021", "brats2023-2024", "msd")
"""Names of the known ways to name and arrange the files of a cohort."""

_KINDS = {
    "brats2018-2021": {**{name: name for name in spec.MODALITIES}, "seg": "seg"},
    "brats2023-2024": {
        **{suffix: name for name, suffix in RELEASE_2023_SUFFIXES.items()},
        "seg": "seg",
    },
}
_FILE = re.compile(
    r"(?P<case>.+)(?:_(?P<old>t1|t1ce|t2|flair|seg)|-(?P<new>t1n|t1c|t2w|t2f|seg))\.nii(?:\.gz)?",
    re.IGNORECASE | re.DOTALL,
)
_STRAY_MASK = re.compile(r"W\d+_\d{4}\.\d\d\.\d\d_Segm\.nii(\.gz)?", re.IGNORECASE)
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_YEAR = re.compile(r"(?:brats|miccai)[-_ ]?(?:20)?(\d\d)(?!\d)", re.IGNORECASE)
_ID_2023 = re.compile(
    r"(?P<patient>BraTS-(?P<collection>[A-Za-z]+)-\d+)(?:-(?P<timepoint>\d{3}))?", re.IGNORECASE
)
_CHALLENGE = re.compile("BraTS-([A-Za-z]+)(?:-.*)?", re.IGNORECASE | re.DOTALL)

_SAME_LABELS_EVERY_YEAR = {"SSA": "BraTS-Africa", "MEN": "the meningioma", "GOAT": "BraTS-GoAT"}
_ASK = f"say which with --label_scheme={'|'.join(spec.LABEL_SCHEMES)}"


def parse_file(name: str) -> tuple[str, str, str] | None:
    """Splits the name of a file of a BraTS release.

    Returns:
        (layout, case id, kind: a canonical modality or "seg"), or None for any other name.

    >>> parse_file("BraTS-GLI-00000-000-t1c.nii.gz")
    ('brats2023-2024', 'BraTS-GLI-00000-000', 't1ce')
    """
    match = _FILE.fullmatch(name)
    if not match:
        return None
    layout = "brats2018-2021" if match["old"] else "brats2023-2024"
    suffix = (match["old"] or match["new"]).lower()
    return layout, match["case"], _KINDS[layout][suffix]


def is_nifti(name: str) -> bool:
    """Returns whether a name ends in .nii or .nii.gz."""
    return name.lower().endswith((".nii", ".nii.gz"))


def is_stray_mask(name: str) -> bool:
    """Returns whether a mask has kept its original name, as in case 355 of BraTS 2020."""
    return _STRAY_MASK.fullmatch(name) is not None


def is_unsafe(name: str) -> bool:
    """Returns whether a name cannot be shown in one line: control characters, or not UTF-8."""
    return _UNSAFE.search(name) is not None


def patient_of(case_id: str) -> str:
    """Returns the id of the patient: the case id without its timepoint, if it has one.

    >>> patient_of("BraTS-GLI-00000-001"), patient_of("BraTS20_Training_001")
    ('BraTS-GLI-00000', 'BraTS20_Training_001')
    """
    match = _ID_2023.fullmatch(case_id)
    return match["patient"] if match else case_id


def challenge_of(case_id: str) -> str | None:
    """Returns the challenge that an id since BraTS 2023 names, in capitals, or None.

    >>> challenge_of("BraTS-MET-00001-000"), challenge_of("BraTS20_Training_001")
    ('MET', None)
    """
    match = _CHALLENGE.fullmatch(case_id)
    return match[1].upper() if match else None


def scheme_of(layout: str, case_id: str, folder: str) -> tuple[str, str]:
    """Derives the label scheme of a case from its names.

    Args:
        layout: one of `LAYOUTS`.
        case_id: the case's id.
        folder: absolute path of the case's folder; its last part that names a year is used.

    Returns:
        (name of the scheme, the reason for people).

    Raises:
        InputError: the names contradict each other, or do not decide the scheme.
    """
    if layout == "msd":
        return "msd", "MSD Task01 counts edema as 1, non-enhancing tumour as 2, enhancing as 3"
    folder_name, year = _release(folder)
    named = f"folder {folder_name}"
    match = _ID_2023.fullmatch(case_id)
    if layout == "brats2018-2021":
        if match or (year or 0) >= 23:
            raise InputError(
                f"{case_id}: its file names are those of BraTS 2018-2021, but "
                f"{'its id' if match else named} is of a later release; {_ASK}"
            )
        return "brats2020", "file names of BraTS 2018-2021, whose masks hold 1, 2 and 4"
    collection, timepoint = (match["collection"].upper(), match["timepoint"]) if match else ("", "")
    if collection == "GLI" and timepoint:
        return _scheme_of_glioma(case_id, int(timepoint), named, year)
    if collection == "PED" and year != 23:
        raise InputError(
            f"{case_id}: BraTS-PED masks of 2024 have other classes, such as cysts, in another "
            "order, and no label scheme here describes them; if yours are of 2023 or relabelled, "
            f"{_ASK}"
        )
    if collection in _SAME_LABELS_EVERY_YEAR:
        return "brats2023", (
            f"{_SAME_LABELS_EVERY_YEAR[collection]} ids; its masks hold 1, 2 and "
            "3 in 2023 and 2024 alike"
        )
    if year == 23 or (year == 24 and collection == "MET"):
        return "brats2023", f"{named}; its masks hold 1, 2 and 3"
    raise InputError(
        f"{case_id}: neither its id nor a folder name decides the label scheme of its mask; "
        f"{_ASK}, or put it below a folder such as BraTS2023"
    )


def _scheme_of_glioma(case_id, timepoint, named, year):
    """Derives the scheme of a GLI id; timepoints from 100 on are of the post-treatment release."""
    own_year = 24 if timepoint >= 100 else 23
    if year not in (None, own_year):
        raise InputError(
            f"{case_id}: its timepoint is of BraTS 20{own_year}, but {named} names "
            f"another release; {_ASK}"
        )
    if own_year == 24:
        return "brats2024", (
            "GLI timepoints from 100 up are those of BraTS 2024 (post-treatment), "
            "where 4 is the resection cavity"
        )
    return (
        "brats2023",
        "GLI timepoints below 100 are those of BraTS 2023, whose masks hold 1, 2 and 3",
    )


def _release(folder):
    """Returns name and two-digit year of the innermost folder with a BraTS year, or Nones."""
    for part in reversed(folder.split("/")):
        match = _YEAR.search(part)
        if match:
            return part, int(match[1])
    return None, None
