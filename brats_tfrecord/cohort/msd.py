"""MSD Task01_BrainTumour: `imagesTr/BRATS_001.nii.gz` holds all modalities, 4-D.

`labelsTr/` has masks of the same names, `imagesTs/` has no masks. `dataset.json` beside the
folders says in which order the modalities lie; where it is there, it must agree.
"""

import json
import os
import re
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


def parse_image(name):
    """(case id, ending) of a file in `imagesTr` or `imagesTs`, or None.

    Names that end in four digits (`BRATS_001_0000`) are nnU-Net's, one file a modality.
    """
    match = _IMAGE.fullmatch(name)
    return (match["case"], match["ending"]) if match else None


def cases_of_folder(folder, names, label_scheme):
    """Yields the `Case`s of an `imagesTr` or `imagesTs` folder.

    Args:
        folder: path of the folder, as text.
        names: its file names that `parse_image` knows.
        label_scheme: name of the scheme of the masks.

    Raises:
        InputError: dataset.json tells of other modalities or labels than Task01's.
    """
    parent = os.path.dirname(folder) or os.curdir
    check_dataset_json(Path(parent, "dataset.json"))
    labels = _listed(os.path.join(parent, LABEL_FOLDER))
    with_labels = os.path.basename(folder) == "imagesTr"
    shared = {}
    for name in names:
        case_id, ending = parse_image(name)
        endings = shared.setdefault(ending, dict.fromkeys(spec.MODALITIES, ending))
        mask = None
        if with_labels:
            found = next(
                (
                    label
                    for label in (name, f"{case_id}.nii.gz", f"{case_id}.nii")
                    if label in labels
                ),
                None,
            )
            mask = Path(parent, LABEL_FOLDER, found) if found else None
        yield Case(
            case_id,
            case_id,
            ImageFiles(folder, case_id, endings),
            mask,
            label_scheme,
            None,
            "msd",
            CHANNELS,
            _UNLABELLED if with_labels and not mask else (),
        )


def labels_without_image(folder, names):
    """The names in a `labelsTr` folder that have no image of that name in `imagesTr`."""
    images = {
        parsed[0]
        for parsed in map(
            parse_image, _listed(os.path.join(os.path.dirname(folder) or os.curdir, "imagesTr"))
        )
        if parsed
    }
    return [
        name
        for name in names
        if naming.is_nifti(name) and (parse_image(name) or ("",))[0] not in images
    ]


def check_dataset_json(path):
    """Raises InputError if `path` is there and does not describe Task01_BrainTumour."""
    if not path.is_file():
        return
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        modalities = {str(index): str(name) for index, name in described["modality"].items()}
        labels = {str(value): str(name) for value, name in described["labels"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read as an MSD dataset.json ({type(error).__name__}); "
            'expected "modality" and "labels", copy it again'
        ) from error
    order = {_MODALITIES.get(name.lower(), name): index for index, name in modalities.items()}
    if order != {name: str(channel) for name, channel in CHANNELS.items()}:
        raise InputError(
            f"{path}: its modalities are {_shown(modalities)}; expected those of "
            "Task01_BrainTumour: 0 FLAIR, 1 T1w, 2 t1gd, 3 T2w"
        )
    if labels.keys() != _LABELS.keys() or not all(
        labels[value].lower().startswith(start) for value, start in _LABELS.items()
    ):
        raise InputError(
            f"{path}: its labels are {_shown(labels)}; expected those of "
            "Task01_BrainTumour: 0 background, 1 edema, 2 non-enhancing tumor, "
            "3 enhancing tumour"
        )


def _shown(table):
    return ascii(", ".join(f"{key} {name}" for key, name in sorted(table.items())))[1:121]


def _listed(folder):
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
