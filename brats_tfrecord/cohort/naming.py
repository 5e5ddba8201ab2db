"""What names of files and folders say: layout, case, modality, patient, release, label scheme.

Only names are looked at. A mask value of 4 is enhancing tumour until 2021 and a resection cavity
in 2024, so values cannot tell a release; where names do not tell either, the user must.
"""

import re

from brats_tfrecord import spec
from brats_tfrecord.cohort.case import RELEASE_2023_SUFFIXES
from brats_tfrecord.errors import InputError

LAYOUTS = ("brats2018-2021", "brats2023-2024", "msd")

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

_SAME_LABELS_EVERY_YEAR = {"SSA": "BraTS-Africa", "MEN": "the meningioma", "GOAT": "BraTS-GoAT"}
_ASK = f"say which with --label_scheme={'|'.join(spec.LABEL_SCHEMES)}"


def parse_file(name):
    """Splits a file name of a BraTS release.

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


def is_nifti(name):
    """Whether a name ends as a NIfTI file's does."""
    return name.lower().endswith((".nii", ".nii.gz"))


def is_stray_mask(name):
    """Whether it is a mask under its original name, as BraTS 2020's case 355 has it."""
    return _STRAY_MASK.fullmatch(name) is not None


def is_unsafe(name):
    """Whether a name cannot be shown in one line: control characters, or not UTF-8."""
    return _UNSAFE.search(name) is not None


def patient_of(case_id):
    """The id without its timepoint, where it has one.

    >>> patient_of("BraTS-GLI-00000-001"), patient_of("BraTS20_Training_001")
    ('BraTS-GLI-00000', 'BraTS20_Training_001')
    """
    match = _ID_2023.fullmatch(case_id)
    return match["patient"] if match else case_id


def scheme_of(layout, case_id, folder):
    """Decides the label scheme of a case by its names.

    Args:
        layout: one of `LAYOUTS`.
        case_id: the case's id.
        folder: absolute path of the case's folder; the last part that names a year counts.

    Returns:
        (name of the scheme, the reason for people).

    Raises:
        InputError: the names contradict each other, or do not tell.
    """
    if layout == "msd":
        return "msd", "MSD Task01 counts edema as 1, non-enhancing tumour as 2, enhancing as 3"
    part, year = _release(folder)
    named = f"folder {part}"
    match = _ID_2023.fullmatch(case_id)
    if layout == "brats2018-2021":
        if match or (year or 0) >= 23:
            raise InputError(
                f"{case_id}: its files end as those of BraTS 2018-2021 do, but "
                f"{'its id' if match else named} is of a later release; {_ASK}"
            )
        return "brats2020", "file names of BraTS 2018-2021, whose masks hold 1, 2 and 4"
    collection = match["collection"].upper() if match else ""
    if collection == "GLI" and match["timepoint"]:
        return _scheme_of_glioma(case_id, int(match["timepoint"]), named, year)
    if collection == "PED" and year != 23:
        raise InputError(
            f"{case_id}: BraTS-PED masks of 2024 hold classes and an order of their "
            "own, cysts among them, which no label scheme here knows; if yours are of "
            f"2023 or relabelled, {_ASK}"
        )
    if collection in _SAME_LABELS_EVERY_YEAR:
        return "brats2023", (
            f"{_SAME_LABELS_EVERY_YEAR[collection]} ids; its masks hold 1, 2 and "
            "3 in 2023 and 2024 alike"
        )
    if year == 23 or (year == 24 and collection == "MET"):
        return "brats2023", f"{named}; its masks hold 1, 2 and 3"
    raise InputError(
        f"{case_id}: neither its id nor a folder name tells whose labels its mask "
        f"holds; {_ASK}, or put it below a folder such as BraTS2023"
    )


def _scheme_of_glioma(case_id, timepoint, named, year):
    """GLI ids tell by themselves: timepoints are 100 and up in the post-treatment release."""
    scheme, own_year = ("brats2024", 24) if timepoint >= 100 else ("brats2023", 23)
    if year not in (None, own_year):
        raise InputError(
            f"{case_id}: its timepoint is of BraTS 20{own_year}, but {named} names "
            f"another release; {_ASK}"
        )
    if own_year == 24:
        return scheme, (
            "GLI timepoints from 100 up are those of BraTS 2024 (post-treatment), "
            "where 4 is the resection cavity"
        )
    return scheme, "GLI timepoints below 100 are those of BraTS 2023, whose masks hold 1, 2 and 3"


def _release(folder):
    """(name, two-digit year) of the nearest folder that names a BraTS year, or (None, None)."""
    for part in reversed(folder.split("/")):
        match = _YEAR.search(part)
        if match:
            return part, int(match[1])
    return None, None
