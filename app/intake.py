"""Reads a case from a cohort's folder or from uploaded files.

Uploads are read in memory: names from users never become paths, and no temporary file is written.
All headers are checked first, against each other and against `MEMORY_LIMIT`. Only then are voxels
decompressed, and never more than the headers declare.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from app import header_checks, plausibility
from app.recognise import FOUR_D, KINDS, Recognised, recognise, shorten
from brats_tfrecord import files, spec
from brats_tfrecord.cohort import msd, naming, nifti, voxel_digest
from brats_tfrecord.cohort.case import RELEASE_2023_SUFFIXES, Case
from brats_tfrecord.cohort.content import MemoryFile
from brats_tfrecord.cohort.geometry import Geometry
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
"""Peak bytes of reading one case, not counting the uploads themselves."""

_MAX_LABELS = 32
"""A mask with more different values than this is reported as an image."""


@dataclass(frozen=True)
class LoadedCase:
    """A case in memory, ready to be displayed and segmented.

    Attributes:
        raw: volumes of all available modalities, LPS order, unprocessed.
        truth: uint8 [X, Y, Z] canonical class ids, or None without a mask.
        digest: SHA-256 of the files' contents and of the label scheme of the mask; does not depend
            on their names.
        seconds: duration of reading.
        warnings: one line for each reason to doubt results on this case.
        notes: one line for each harmless anomaly of its names and files.
        voxels: modality -> digest of its voxels (`cohort.voxel_digest`).
    """

    raw: nifti.RawCase
    truth: np.ndarray | None
    digest: str
    seconds: float
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    voxels: Mapping[str, str] = field(default_factory=dict)

    @property
    def case_id(self) -> str:
        """Id of the case."""
        return self.raw.case_id

    def unpacked(self) -> "LoadedCase":
        """Returns itself; the same method of `scene.Scene` decompresses the case."""
        return self


def load_case(
    case: Case,
    *,
    any_spacing: bool = False,
    memory_limit: int = MEMORY_LIMIT,
    reserve: Callable[[int], object] | None = None,
) -> LoadedCase:
    """Reads a case of a cohort: all modalities it has, and its mask if it has one.

    Args:
        case: the files.
        any_spacing: whether spacings other than 1 mm are allowed, as the model's recipe decides.
        memory_limit: peak bytes that reading may take.
        reserve: called with the peak bytes, known from the headers, before voxels are read.

    Raises:
        CaseError: as in `load_uploads`, or the label scheme lacks a value of the mask.
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
    raw = _read(case, opened, names, any_spacing, memory_limit, reserve)
    doubts: list[str] = []
    for channel, modality in enumerate(raw.modalities):
        volume = raw.volumes[..., channel]
        doubt = plausibility.problem_of(volume) or plausibility.doubt_of(volume)
        if doubt:
            doubts.append(f"{_named(case, modality)}: {doubt}")
    return _loaded(case, raw, doubts, started)


def load_uploads(
    uploads: Sequence[tuple[str, bytes]],
    assignment: Mapping[str, int],
    needed: Sequence[str],
    *,
    label_scheme: str | None = None,
    any_spacing: bool = False,
    memory_limit: int = MEMORY_LIMIT,
    reserve: Callable[[int], object] | None = None,
) -> LoadedCase:
    """Reads uploaded files as one case.

    Args:
        uploads: (name, bytes-like content) in any order; contents are not copied.
        assignment: kind (of `KINDS`) -> index of its file, `Recognised.kinds` or the user's
            choice. Other files are ignored.
        needed: modalities that must be assigned; a 4-D file has all.
        label_scheme: name of the scheme of the mask's values; None to derive it from the mask's
            name.
        any_spacing, memory_limit, reserve: as in `load_case`.

    Raises:
        InputError: the assignment lacks a needed modality, has an unknown kind or index or one
            file twice, or the name of the mask does not decide the label scheme.
        CaseError: a file is unreadable, the case would take more than `memory_limit`, an image
            holds no brain or only labels, or a mask holds intensities.
    """
    started = time.monotonic()
    names = recognise([name for name, _ in uploads]).files
    _check_assignment(names, assignment, needed)
    ordered = {kind: assignment[kind] for kind in KINDS if kind in assignment}
    opened = _open_uploads(uploads, names, ordered)
    case = _case(names, ordered, opened, _scheme(names, ordered, label_scheme))
    raw = _read(case, opened, list(case.images), any_spacing, memory_limit, reserve)
    return _loaded(case, raw, _doubts(names, ordered, case, raw), started)


def from_arrays(name: str, volumes: np.ndarray, mask: np.ndarray, geometry: Geometry) -> LoadedCase:
    """Makes a case of arrays.

    Args:
        name: its case id.
        volumes: [X, Y, Z, 4], channels as in `spec.MODALITIES`, LPS order.
        mask: [X, Y, Z] with values of the scheme "brats2020".
        geometry: its geometry.
    """
    started = time.monotonic()
    channels = np.ascontiguousarray(np.moveaxis(volumes, -1, 0), np.float32)
    labels = mask.astype(np.int16)
    raw = nifti.RawCase(
        name,
        name,
        None,
        "brats2020",
        spec.MODALITIES,
        np.moveaxis(channels, 0, -1),
        labels,
        geometry,
    )
    truth = masks.to_classes(labels, spec.LABEL_SCHEMES[raw.label_scheme], name)
    digest = hashlib.sha256(channels.tobytes() + mask.tobytes()).hexdigest()
    voxels = voxel_digest.digests_of(raw.modalities, raw.volumes)
    return LoadedCase(raw, truth, digest, time.monotonic() - started, voxels=voxels)


def _open_uploads(uploads, names, assignment):
    """kind -> `MemoryFile`; files of equal names are displayed with their kinds."""
    shown = {kind: names[index].shown for kind, index in assignment.items()}
    counts = Counter(shown.values())
    return {
        kind: MemoryFile(
            name if counts[name] == 1 else f"{name} ({kind})", uploads[assignment[kind]][1]
        )
        for kind, name in shown.items()
    }


def _read(case, opened, modalities, any_spacing, memory_limit, reserve):
    """Checks the headers of `opened` (kind -> file), then reads the `nifti.RawCase`."""
    headers = {kind: header_checks.read_header(file, kind) for kind, file in opened.items()}
    header_checks.check_geometries(opened, headers, any_spacing)
    header_checks.check_memory(opened, headers, memory_limit)
    if reserve:
        reserve(header_checks.peak_bytes(headers)[0])
    try:
        return nifti.read_case(case, modalities, any_spacing=any_spacing)
    except MemoryError as error:
        raise CaseError(
            f"{case.case_id}: its voxels do not fit into the server's memory; close "
            "other cases, or crop the images"
        ) from error


def _check_assignment(names, assignment, needed):
    _check_indices(names, assignment)
    _check_not_mixed(names, assignment)
    _check_complete(names, assignment, needed)


def _check_indices(names, assignment):
    kinds_by_index: dict[int, str] = {}
    for kind, index in assignment.items():
        if kind not in KINDS:
            raise InputError(f"{kind}: unknown kind of file; expected one of {', '.join(KINDS)}")
        if not 0 <= index < len(names):
            raise InputError(
                f"{kind}: is assigned to file {index}, but {len(names)} files were uploaded; "
                "upload it again"
            )
        if index in kinds_by_index:
            raise InputError(
                f"{names[index].shown}: is chosen as {kinds_by_index[index]} and as "
                f"{kind}; expected one kind per file, choose another file for one of them"
            )
        kinds_by_index[index] = kind


def _check_not_mixed(names, assignment):
    single = [modality for modality in spec.MODALITIES if modality in assignment]
    if FOUR_D in assignment and single:
        raise InputError(
            f"{names[assignment[FOUR_D]].shown}: is chosen as the 4-D file of all "
            f"modalities, and {names[assignment[single[0]]].shown} as {single[0]} "
            "too; expected one or the other"
        )


def _check_complete(names, assignment, needed):
    single = [modality for modality in spec.MODALITIES if modality in assignment]
    missing = [
        modality
        for modality in needed or single[:1] or spec.MODALITIES
        if modality not in assignment
    ]
    if missing and FOUR_D not in assignment:
        recognised = ", ".join(kind for kind in KINDS if kind in assignment) or "none"
        since_2023 = any(name.layout == "brats2023-2024" for name in names)
        suffix = f"-{RELEASE_2023_SUFFIXES[missing[0]]}" if since_2023 else f"_{missing[0]}"
        raise InputError(
            f"no {' and no '.join(missing)} image among the uploaded files "
            f"(recognised: {recognised}); expected a name that "
            f"ends in {suffix}.nii or {suffix}.nii.gz, or choose the file"
        )


def _scheme(names, assignment, label_scheme):
    """Name of the label scheme of the mask; an arbitrary one without a mask."""
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
            f"{mask.shown}: its name does not say which label scheme it follows; choose the "
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
    """Yields warnings about an uploaded case; raises `CaseError` if a volume cannot be a brain."""
    ids = dict.fromkeys(names[index].case_id for index in assignment.values())
    if len({case_id.casefold() for case_id in ids}) > 1:
        yield f"files of several cases were combined: {', '.join(map(shorten, ids))}"
    for channel, modality in enumerate(raw.modalities):
        volume, name = raw.volumes[..., channel], _named(case, modality)
        problem = plausibility.problem_of(volume)
        if problem:
            raise CaseError(f"{name}: {problem}")
        doubt = plausibility.doubt_of(volume)
        if doubt:
            yield f"{name}: {doubt}"
        for earlier in range(channel):
            if _equal(volume, raw.volumes[..., earlier]):
                yield f"{name}: is identical to the image of {raw.modalities[earlier]}"
                break


def _equal(first, second):
    middle = len(first) // 2  # one slice, which nearly always differs, is compared first
    return np.array_equal(first[middle], second[middle]) and np.array_equal(first, second)


def _named(case, modality):
    """The name of the image of `modality` in messages."""
    return f"{case.images[modality]}{f' ({modality})' if case.channels else ''}"


def _loaded(case, raw, doubts, started):
    """Makes the `LoadedCase`; converts the mask to classes."""
    truth = None
    doubts = [*filter(None, [raw.geometry.caveat]), *doubts]
    notes = dict.fromkeys(note for note in (*case.notes, *raw.notes) if note not in doubts)
    if raw.mask is not None:
        truth = _truth(case, raw)
        if not truth.any():
            doubts.append(f"{case.mask}: holds no tumour voxel")
    voxels = voxel_digest.digests_of(raw.modalities, raw.volumes)
    seconds = time.monotonic() - started
    return LoadedCase(raw, truth, _digest(case), seconds, tuple(doubts), tuple(notes), voxels)


def _truth(case, raw):
    """Converts the mask to uint8 [X, Y, Z] canonical classes; explains if it is an image."""
    scheme = spec.LABEL_SCHEMES[raw.label_scheme]
    try:
        return masks.to_classes(raw.mask, scheme, case.mask, "choose its label scheme")
    except CaseError as error:
        values = np.unique(raw.mask)
        if values.size <= _MAX_LABELS:
            raise
        raise CaseError(
            f"{case.mask}: holds {values.size} different values from {values[0]} to {values[-1]}; "
            f"expected the labels {', '.join(map(str, sorted(scheme.values)))}; it seems to be an "
            "image, choose the segmentation instead"
        ) from error


def _digest(case):
    """Hex SHA-256 of the kinds and contents of the case's files, and of the mask's label scheme."""
    contents = {**case.images, "seg": case.mask} if case.mask else case.images
    digests = {}
    for file in contents.values():
        if file not in digests:  # a 4-D file is listed once for each modality
            digests[file] = (
                hashlib.sha256(file.data).hexdigest()
                if isinstance(file, MemoryFile)
                else files.sha256(file)
            )
    lines = [f"{kind} {digests[file]}" for kind, file in sorted(contents.items())]
    if case.mask is not None:  # its values mean other classes in another scheme
        lines.append(case.label_scheme)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
