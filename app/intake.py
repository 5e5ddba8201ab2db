"""Gets a case in: from a cohort's folder, or from files that a user uploads.

Uploads are read where they lie, in memory: no name of a user ever becomes a path, and no temporary
file is written. All headers are checked first, against each other and against `MEMORY_LIMIT`;
only then is anything expanded, and never beyond what the headers declare.
"""

import hashlib
import time
from dataclasses import dataclass

import numpy as np

from app import admission, plausibility
from app.recognise import FOUR_D, KINDS, Recognised, recognise, shorten
from brats_tfrecord import files, spec
from brats_tfrecord.cohort import msd, naming, nifti
from brats_tfrecord.cohort.case import RELEASE_2023_SUFFIXES, Case
from brats_tfrecord.cohort.content import MemoryFile
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.preprocess import masks

__all__ = [
    "FOUR_D",
    "KINDS",
    "MEMORY_LIMIT",
    "LoadedCase",
    "Recognised",
    "from_arrays",
    "load_case",
    "load_uploads",
    "recognise",
]

MEMORY_LIMIT = 3 << 30
"""Bytes that reading one uploaded case may take at its peak, beside the uploads themselves."""

_MOST_LABELS = 32
"""More different values than any segmentation of brain tumours holds are those of an image."""


@dataclass(frozen=True)
class LoadedCase:
    """A case in memory, ready to be shown and segmented.

    Attributes:
        raw: volumes of every modality there is, LPS order, intensities untouched.
        truth: uint8 [X, Y, Z] canonical class ids, or None without a mask.
        digest: SHA-256 over the files' contents: equal for equal cases, whatever their names.
        seconds: how long reading took.
        warnings: one line each: why results on this case may mean nothing.
    """

    raw: nifti.RawCase
    truth: np.ndarray | None
    digest: str
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def case_id(self):
        """The case's name."""
        return self.raw.case_id

    def unpacked(self):
        """Itself, as a `scene.Scene` gives the case that it was made of."""
        return self


def load_case(case, *, any_spacing=False, memory_limit=MEMORY_LIMIT):
    """Reads a case of a cohort, every modality it has, and its mask if there is one.

    Args:
        case: `cohort.case.Case`.
        any_spacing: whether the model's recipe takes voxels of other sizes than 1 mm.
        memory_limit: bytes that reading may take at its peak.

    Raises:
        CaseError: as `load_uploads`, or a label value that the case's scheme does not know.
    """
    started = time.monotonic()
    names = [name for name in spec.MODALITIES if name in case.images]
    opened = (
        {FOUR_D: case.images[names[0]]}
        if case.channels
        else {name: case.images[name] for name in names}
    )
    if case.mask is not None:
        opened["seg"] = case.mask
    raw = _read(case, opened, names, any_spacing, memory_limit)
    doubts = []
    for channel, modality in enumerate(raw.modalities):
        volume = raw.volumes[..., channel]
        doubt = plausibility.problem_of(volume) or plausibility.doubt_of(volume)
        if doubt:
            doubts.append(f"{_named(case, modality)}: {doubt}")
    return _loaded(case, raw, doubts, started)


def load_uploads(
    uploads, assignment, needed, *, label_scheme=None, any_spacing=False, memory_limit=MEMORY_LIMIT
):
    """Reads uploaded files as one case.

    Args:
        uploads: sequence of (name, bytes-like), in any order; contents are not copied.
        assignment: kind (of `KINDS`) -> index of its file: `Recognised.kinds`, or what a person
            chose. Files that it leaves out are not looked at.
        needed: names of the modalities that must be among them; the 4-D file has all.
        label_scheme: name of the scheme of the mask's values; None to go by its name, which must
            then tell (`Recognised.asks_label_scheme`).
        any_spacing: as in `load_case`.
        memory_limit: bytes that reading may take at its peak.

    Returns:
        a `LoadedCase`.

    Raises:
        InputError: the assignment lacks a needed modality, names a file twice or one that is not
            there, or the label scheme is open.
        CaseError: a file cannot be used: as `load_case`; or by its header the case would take more
            than `memory_limit`; or it holds no brain, or labels where an image is expected, or an
            image where labels are.
    """
    started = time.monotonic()
    names = recognise([name for name, _ in uploads]).files
    _check_assignment(names, assignment, needed)
    ordered = {kind: assignment[kind] for kind in KINDS if kind in assignment}
    shown = [names[index].shown for index in ordered.values()]
    opened = {
        kind: MemoryFile(
            names[index].shown
            if shown.count(names[index].shown) == 1
            else f"{names[index].shown} ({kind})",
            uploads[index][1],
        )
        for kind, index in ordered.items()
    }
    case = _case(names, ordered, opened, _scheme(names, ordered, label_scheme))
    raw = _read(case, opened, list(case.images), any_spacing, memory_limit)
    return _loaded(case, raw, _doubts(names, ordered, case, raw), started)


def from_arrays(name, volumes, mask, geometry):
    """A case that was made rather than read.

    Args:
        name: its id.
        volumes: [X, Y, Z, 4], channels as in `spec.MODALITIES`, LPS order.
        mask: [X, Y, Z] of the values of the scheme "brats2020".
        geometry: its `Geometry`.
    """
    started = time.monotonic()
    channels = np.ascontiguousarray(np.moveaxis(volumes, -1, 0), np.float32)
    raw = nifti.RawCase(
        name,
        name,
        None,
        "brats2020",
        spec.MODALITIES,
        np.moveaxis(channels, 0, -1),
        mask.astype(np.int16),
        geometry,
    )
    truth = masks.to_classes(raw.mask, spec.LABEL_SCHEMES[raw.label_scheme], name)
    digest = hashlib.sha256(channels.tobytes() + mask.tobytes()).hexdigest()
    return LoadedCase(raw, truth, digest, time.monotonic() - started)


def _read(case, opened, modalities, any_spacing, memory_limit):
    """The `nifti.RawCase` of the files `opened` (kind -> file), once all headers have passed."""
    headers = {kind: admission.read_header(file, kind) for kind, file in opened.items()}
    admission.check_geometries(opened, headers, any_spacing)
    admission.check_memory(opened, headers, memory_limit)
    try:
        return nifti.read_case(case, modalities, any_spacing=any_spacing)
    except MemoryError as error:
        raise CaseError(
            f"{case.case_id}: its voxels do not fit into the server's memory; close "
            "other cases, or crop the images"
        ) from error


def _check_assignment(names, assignment, needed):
    taken = {}
    for kind, index in assignment.items():
        if kind not in KINDS:
            raise InputError(f"{kind}: no kind of file; expected one of {', '.join(KINDS)}")
        if not 0 <= index < len(names):
            raise InputError(
                f"{kind}: is to be file {index} of {len(names)} uploaded ones; upload it again"
            )
        if index in taken:
            raise InputError(
                f"{names[index].shown}: is chosen as {taken[index]} and as {kind}; "
                "expected one kind a file, choose another file for one of them"
            )
        taken[index] = kind
    single = [modality for modality in spec.MODALITIES if modality in assignment]
    if FOUR_D in assignment and single:
        raise InputError(
            f"{names[assignment[FOUR_D]].shown}: is chosen as the 4-D file of all "
            f"modalities, and {names[assignment[single[0]]].shown} as {single[0]} "
            "too; expected one or the other"
        )
    missing = [
        modality
        for modality in needed or single[:1] or spec.MODALITIES
        if modality not in assignment
    ]
    if missing and FOUR_D not in assignment:
        there = ", ".join(kind for kind in KINDS if kind in assignment) or "none"
        since_2023 = any(name.layout == "brats2023-2024" for name in names)
        suffix = f"-{RELEASE_2023_SUFFIXES[missing[0]]}" if since_2023 else f"_{missing[0]}"
        raise InputError(
            f"no {' and no '.join(missing)} image among the uploaded files (recognised: {there}); "
            f"expected a name that ends in {suffix}.nii or {suffix}.nii.gz, or choose the file"
        )


def _scheme(names, assignment, label_scheme):
    """Name of the label scheme of the mask; any one without a mask."""
    if label_scheme is not None:
        if label_scheme not in spec.LABEL_SCHEMES:
            raise InputError(
                f"label scheme {label_scheme}: expected one of {', '.join(spec.LABEL_SCHEMES)}"
            )
        return label_scheme
    if "seg" not in assignment:
        return next(iter(spec.LABEL_SCHEMES))
    mask = names[assignment["seg"]]
    if mask.label_scheme is None:
        choices = ", ".join(
            f"{scheme.name} ({', '.join(map(str, sorted(scheme.values[1:])))})"
            for scheme in spec.LABEL_SCHEMES.values()
        )
        raise InputError(
            f"{mask.shown}: its name does not tell what its labels mean; choose the "
            f"label scheme: {choices}"
        )
    return mask.label_scheme


def _case(names, assignment, opened, scheme):
    """The `Case` of files in memory."""
    single = {kind: opened[kind] for kind in spec.MODALITIES if kind in opened}
    images = single or dict.fromkeys(spec.MODALITIES, opened[FOUR_D])
    ids = [names[index].case_id for index in assignment.values() if names[index].case_id]
    case_id = shorten(ids[0]) if ids else "upload"
    return Case(
        case_id,
        naming.patient_of(case_id),
        images,
        opened.get("seg"),
        scheme,
        None,
        channels={} if single else msd.CHANNELS,
    )


def _doubts(names, assignment, case, raw):
    """Warnings about an uploaded case; raises `CaseError` for a volume that is no brain."""
    ids = dict.fromkeys(names[index].case_id for index in assignment.values())
    if len({case_id.casefold() for case_id in ids}) > 1:
        yield f"files of several cases as one: {', '.join(map(shorten, ids))}"
    for channel, modality in enumerate(raw.modalities):
        volume, name = raw.volumes[..., channel], _named(case, modality)
        problem = plausibility.problem_of(volume)
        if problem:
            raise CaseError(f"{name}: {problem}")
        doubt = plausibility.doubt_of(volume)
        if doubt:
            yield f"{name}: {doubt}"
        same = next(
            (before for before in range(channel) if _same(volume, raw.volumes[..., before])), None
        )
        if same is not None:
            yield f"{name}: is voxel for voxel the image of {raw.modalities[same]}"


def _same(first, second):
    middle = len(first) // 2  # differs nearly always: the rest is not looked at
    return np.array_equal(first[middle], second[middle]) and np.array_equal(first, second)


def _named(case, modality):
    """What messages call the image of `modality`."""
    return f"{case.images[modality]}{f' ({modality})' if case.channels else ''}"


def _loaded(case, raw, doubts, started):
    """The `LoadedCase` of what was read."""
    truth = None
    doubts = list(doubts)
    if raw.mask is not None:
        truth = _truth(case, raw)
        if not truth.any():
            doubts.append(f"{case.mask}: holds no tumour voxel")
    return LoadedCase(raw, truth, _digest(case), time.monotonic() - started, tuple(doubts))


def _truth(case, raw):
    """uint8 [X, Y, Z] canonical classes of the mask; refuses an image in its place."""
    scheme = spec.LABEL_SCHEMES[raw.label_scheme]
    try:
        return masks.to_classes(raw.mask, scheme, case.mask, "choose its label scheme")
    except CaseError as error:
        values = np.unique(raw.mask)
        if values.size <= _MOST_LABELS:
            raise
        raise CaseError(
            f"{case.mask}: holds {values.size} different values from {values[0]} to {values[-1]}; "
            f"expected the labels {', '.join(map(str, sorted(scheme.values)))}; it seems to be an "
            "image, choose the segmentation in its place"
        ) from error


def _digest(case):
    """Hex SHA-256 over kind and content of the case's files."""
    contents = {**case.images, "seg": case.mask} if case.mask else case.images
    digests = {}
    for file in contents.values():
        if file not in digests:  # one 4-D file holds all modalities
            digests[file] = (
                hashlib.sha256(file.data).hexdigest()
                if isinstance(file, MemoryFile)
                else files.sha256(file)
            )
    lines = [f"{kind} {digests[file]}" for kind, file in sorted(contents.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
