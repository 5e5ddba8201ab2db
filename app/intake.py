"""Gets a case in: from a cohort's folder, or from files that a user uploads.

Names given by users are shown, never used as paths: uploads are written to a temporary folder
under names of our own, read as any case is, and deleted.
"""

import dataclasses
import hashlib
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brats_tfrecord import files, spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess import masks

_NAME = re.compile(
    r"(?P<case>.+)_(?P<kind>t1|t1ce|t2|flair|seg)\.nii(\.gz)?", re.IGNORECASE | re.DOTALL
)
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class LoadedCase:
    """A case in memory, ready to be shown and segmented.

    Attributes:
        raw: volumes of every modality there is, LPS order, intensities untouched.
        truth: uint8 [X, Y, Z] canonical class ids, or None without a mask.
        digest: SHA-256 over the files' contents: equal for equal cases, whatever their names.
        seconds: how long reading took.
    """

    raw: nifti.RawCase
    truth: np.ndarray | None
    digest: str
    seconds: float


@dataclass(frozen=True)
class Recognised:
    """What the names of uploaded files say.

    Attributes:
        case_id: the part before the suffix, common to all files.
        kinds: "t1", "t1ce", "t2", "flair" or "seg" -> index of the file.
        ignored: names without one of these suffixes.
    """

    case_id: str
    kinds: Mapping[str, int]
    ignored: tuple[str, ...]


def load_case(case, *, any_spacing=False):
    """Reads a case of a cohort, every modality it has, and its mask if there is one.

    Args:
        case: `cohort.layouts.Case`.
        any_spacing: whether the model's recipe takes voxels of other sizes than 1 mm.

    Raises:
        CaseError: as `nifti.read_case`, or a label value that the case's scheme does not know.
    """
    started = time.monotonic()
    names = [name for name in spec.MODALITIES if name in case.images]
    raw = nifti.read_case(case, names, any_spacing=any_spacing)
    truth = None
    if raw.mask is not None:
        truth = masks.to_classes(raw.mask, spec.LABEL_SCHEMES[raw.label_scheme], raw.case_id)
    return LoadedCase(raw, truth, _digest(case), time.monotonic() - started)


def load_uploads(uploads, needed, *, any_spacing=False):
    """Reads uploaded files as one case.

    Args:
        uploads: sequence of (name, bytes-like), in any order.
        needed: names of the modalities that must be among them.
        any_spacing: as in `load_case`.

    Raises:
        InputError: files of two cases, two files for one modality, or a needed one is missing.
        CaseError: as `load_case`, naming the uploaded file.
    """
    recognised = recognise([name for name, _ in uploads])
    missing = [modality for modality in needed if modality not in recognised.kinds]
    if missing:
        there = ", ".join(recognised.kinds) or "none"
        raise InputError(
            f"no {' and no '.join(missing)} image among the uploaded files (recognised: {there}); "
            f"expected a name that ends in _{missing[0]}.nii or _{missing[0]}.nii.gz"
        )
    with tempfile.TemporaryDirectory(prefix="brats-upload-") as folder:
        names = {}
        for kind, index in recognised.kinds.items():
            name, data = uploads[index]
            path = Path(folder) / f"upload_{kind}.nii{_ending(data)}"
            path.write_bytes(data)
            names[path] = name
        try:
            [case] = layouts.find_cases(folder)
            loaded = load_case(case, any_spacing=any_spacing)
        except InputError as error:
            raise type(error)(_with_names(str(error), names, recognised.case_id)) from error
    raw = dataclasses.replace(loaded.raw, case_id=recognised.case_id,
                              patient_id=recognised.case_id)
    return dataclasses.replace(loaded, raw=raw)


def recognise(names):
    """Tells by their suffixes which of the files `names` is which; their order means nothing.

    Raises:
        InputError: files of two cases, or two files for one modality.
    """
    kinds, ignored, case_ids = {}, [], {}
    for index, name in enumerate(names):
        match = _NAME.fullmatch(name)
        if not match:
            ignored.append(name)
            continue
        kind = match["kind"].lower()
        if kind in kinds:
            raise InputError(f"two {kind} files, {names[kinds[kind]]} and {name}; remove one")
        kinds[kind] = index
        case_ids.setdefault(match["case"], name)
    if len(case_ids) > 1:
        first, second, *_ = case_ids.values()
        raise InputError(f"{first} and {second} are files of two cases; upload one case at a time")
    ordered = {kind: kinds[kind] for kind in (*spec.MODALITIES, "seg") if kind in kinds}
    return Recognised(next(iter(case_ids), ""), ordered, tuple(ignored))


def _ending(data):
    """By the content: browsers and users rename `.nii.gz` to `.nii` and back."""
    return ".gz" if bytes(data[:2]) == _GZIP_MAGIC else ""


def _with_names(message, names, case_id):
    """Puts the user's names where `message` has paths and names of our own."""
    for path, name in names.items():
        message = message.replace(str(path), name).replace(path.name, name)
    return re.sub(r"\bupload(?=:)", lambda _: case_id, message)


def _digest(case):
    """Hex SHA-256 over kind and content of the case's files."""
    contents = {**case.images, "seg": case.mask} if case.mask else case.images
    lines = [f"{kind} {files.sha256(path)}" for kind, path in sorted(contents.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
