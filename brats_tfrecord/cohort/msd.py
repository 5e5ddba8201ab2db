"""The layout of Task01_BrainTumour of the Medical Segmentation Decathlon (MSD).

`imagesTr/BRATS_001.nii.gz` is 4-D and holds all modalities; `labelsTr/` has masks of the same
names; the images in `imagesTs/` have no masks. If a `dataset.json` is present, its labels must be
those of the task, and its modalities too, or some of them: files with fewer volumes hold these in
the order that `dataset.json` declares.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from brats_tfrecord import spec
from brats_tfrecord.cohort import naming
from brats_tfrecord.cohort.case import Case, ImageFiles
from brats_tfrecord.errors import InputError

CHANNELS = {"flair": 0, "t1": 1, "t1ce": 2, "t2": 3}
"""Canonical modality -> index on the fourth axis."""

IMAGE_FOLDERS = ("imagesTr", "imagesTs")
LABEL_FOLDER = "labelsTr"

_IMAGE = re.compile(r"(?P<case>.+?)(?<!_\d{4})(?P<ending>\.nii(?:\.gz)?)", re.IGNORECASE)
_MODALITIES = {
    "flair": "flair",
    "t1w": "t1",
    "t1": "t1",
    "t1gd": "t1ce",
    "t1ce": "t1ce",
    "t2w": "t2",
    "t2": "t2",
}
_LABELS = {"0": "background", "1": "edema", "2": "non-enhanc", "3": "enhanc"}
_UNLABELLED = ("no mask of that name in labelsTr: taken as an unlabelled case",)


def parse_image(name: str) -> tuple[str, str] | None:
    """Splits the name of a file in `imagesTr` or `imagesTs` into case id and ending.

    Returns None for other names. Names that end in four digits (`BRATS_001_0000`) are those of
    nnU-Net, which has one file for each modality.
    """
    match = _IMAGE.fullmatch(name)
    return (match["case"], match["ending"]) if match else None


def cases_of_folder(folder: str, names: Iterable[str], label_scheme: str) -> Iterator[Case]:
    """Yields the cases of an `imagesTr` or `imagesTs` folder.

    Args:
        folder: path of the folder.
        names: its file names; those that `parse_image` does not know are skipped.
        label_scheme: name of the scheme of the masks.

    Raises:
        InputError: dataset.json declares other modalities or labels than those of Task01.
    """
    parent = os.path.dirname(folder) or os.curdir
    channels = _declared_channels(Path(parent, "dataset.json"))
    modalities = [name for name in spec.MODALITIES if name in channels]
    with_labels = os.path.basename(folder) == "imagesTr"
    labels = _names_in(os.path.join(parent, LABEL_FOLDER)) if with_labels else set()
    endings_of: dict[str, dict[str, str]] = {}  # shared by the cases, to save memory
    for name in names:
        parsed = parse_image(name)
        if not parsed:
            continue
        case_id, ending = parsed
        endings = endings_of.setdefault(ending, dict.fromkeys(modalities, ending))
        candidates = (name, f"{case_id}.nii.gz", f"{case_id}.nii")
        label = next((label for label in candidates if label in labels), None)
        mask = Path(parent, LABEL_FOLDER, label) if label else None
        yield Case(
            case_id,
            case_id,
            ImageFiles(folder, case_id, endings),
            mask,
            label_scheme,
            None,
            "msd",
            channels,
            _UNLABELLED if with_labels and not mask else (),
        )


def labels_without_image(folder: str, names: Iterable[str]) -> list[str]:
    """Returns the NIfTI names of a `labelsTr` folder without an image of that name."""
    parent = os.path.dirname(folder) or os.curdir
    images = {_case_id(name) for name in _names_in(os.path.join(parent, "imagesTr"))} - {""}
    return [name for name in names if naming.is_nifti(name) and _case_id(name) not in images]


def _declared_channels(path: Path) -> dict[str, int]:
    """Returns modality -> index on the fourth axis, as the dataset.json `path` declares.

    `CHANNELS` if there is no such file, or all four modalities are declared.

    Raises:
        InputError: the file does not describe Task01_BrainTumour.
    """
    if not path.is_file():
        return CHANNELS
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        modalities = {str(index): str(name) for index, name in description["modality"].items()}
        labels = {str(value): str(name) for value, name in description["labels"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read as an MSD dataset.json ({type(error).__name__}); "
            'expected "modality" and "labels", copy it again'
        ) from error
    order = {_MODALITIES.get(name.lower(), name): index for index, name in modalities.items()}
    complete = {name: str(channel) for name, channel in CHANNELS.items()}
    is_part = (
        0 < len(order) == len(modalities) < len(complete)
        and order.keys() <= complete.keys()
        and set(order.values()) == set(map(str, range(len(order))))
    )
    if order != complete and not is_part:
        raise InputError(
            f"{path}: its modalities are {_shown(modalities)}; expected those of "
            "Task01_BrainTumour: 0 FLAIR, 1 T1w, 2 t1gd, 3 T2w (or some of them, numbered from 0)"
        )
    if labels.keys() != _LABELS.keys() or not all(
        labels[value].lower().startswith(start) for value, start in _LABELS.items()
    ):
        raise InputError(
            f"{path}: its labels are {_shown(labels)}; expected those of "
            "Task01_BrainTumour: 0 background, 1 edema, 2 non-enhancing tumor, "
            "3 enhancing tumour"
        )
    return {name: int(index) for name, index in order.items()}


def _shown(table):
    return ascii(", ".join(f"{key} {name}" for key, name in sorted(table.items())))[1:121]


def _case_id(name):
    """Returns the case id of a file name, or ""."""
    parsed = parse_image(name)
    return parsed[0] if parsed else ""


def _names_in(folder):
    """Returns the set of names in a folder; empty if it cannot be listed."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
