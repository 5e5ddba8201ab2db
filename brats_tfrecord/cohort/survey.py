"""Describes a cohort: a summary before a conversion starts, or a table of all its voxels."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from brats_tfrecord import spec
from brats_tfrecord.cohort import inventory, nifti
from brats_tfrecord.cohort.case import Case, Cohort, missing_notes
from brats_tfrecord.cohort.geometry import Geometry, is_one_millimetre
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.wording import plural

SAMPLE = 2000
"""Largest number of headers that `summary` reads, spread over the cohort."""

MOST_LABELS = 32
"""Largest number of label values listed; a mask with more of them is probably an image."""


@dataclass(frozen=True)
class Examination:
    """The properties of one case whose files were all read; small enough to keep many thousands.

    Attributes:
        case_id: the case.
        shape: (X, Y, Z) in LPS order. As the next two, None if no header could be read.
        spacing_mm: (X, Y, Z) in LPS order, to a thousandth.
        orientation: axis codes of the first file, such as "LPS".
        intensities: (modality, lowest, highest) each; empty if the files cannot be read.
        labels: (value in the file, voxels) each, at most `MOST_LABELS`; empty without a mask or
            if it cannot be read.
        notes: anomalies, each "finding: consequence"; the same text for the same anomaly.
        refusal: the reason why the case cannot be used, in one line, or None.
    """

    case_id: str
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, ...] | None = None
    orientation: str | None = None
    intensities: tuple[tuple[str, float, float], ...] = ()
    labels: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()
    refusal: str | None = None


def examine(case: Case, **read_options: Any) -> Examination:
    """Reads all files of a case; bad input becomes a refusal, never an exception.

    Args:
        case: a `case.Case`.
        **read_options: keyword arguments of `nifti.read_case`.
    """
    properties: dict[str, Any] = {"case_id": case.case_id}
    notes, refusal = list(case.notes), None
    try:
        geometry = _geometry(case)
        properties.update(
            shape=geometry.lps_shape,
            orientation="".join(geometry.orientation),
            spacing_mm=tuple(round(size, 3) for size in geometry.spacing_mm),
        )
        raw = nifti.read_case(case, **read_options)
        volumes = zip(raw.modalities, np.moveaxis(raw.volumes, -1, 0))
        ranges = [
            (name, float(volume.min()), float(volume.max()))
            for name, volume in volumes
            if name not in raw.missing
        ]
        labels = _count_labels(raw.mask)
        properties.update(intensities=tuple(ranges), labels=tuple(labels.items())[:MOST_LABELS])
        notes += [*missing_notes(raw.missing), *raw.notes, *_anomalies(raw, ranges)]
        refusal = _unknown_labels(case, labels)
    except (CaseError, OSError, MemoryError) as error:
        refusal = " ".join(str(error).split()) or type(error).__name__
    return Examination(**properties, notes=tuple(notes), refusal=refusal)


def table(cohort: Cohort, examinations: Iterable[Examination]) -> list[str]:
    """Describes the whole cohort in text lines, after all cases were read.

    Args:
        cohort: the cohort.
        examinations: one for each case, in any order; an iterator is consumed once.
    """
    grids, anomalies = _Grids(), inventory.Anomalies()
    ranges: dict[str, tuple[float, float]] = {}
    cases_with, voxels_of = Counter[int](), Counter[int]()
    refusals = {}
    for examination in examinations:
        grids.add(examination.shape, examination.spacing_mm, examination.orientation)
        for name, low, high in examination.intensities:
            lowest, highest = ranges.get(name, (low, high))
            ranges[name] = min(low, lowest), max(high, highest)
        for value, voxels in examination.labels:
            cases_with[value] += 1
            voxels_of[value] += voxels
        for note in dict.fromkeys(examination.notes):
            anomalies.add(note, examination.case_id)
        if examination.refusal:
            refusals[examination.case_id] = examination.refusal
    scheme = spec.LABEL_SCHEMES[cohort.label_scheme]
    lines = [*inventory.lines(cohort), *grids.lines()]
    lines += [f"  intensity     {name} {low:g} to {high:g}" for name, (low, high) in ranges.items()]
    lines += [
        f"  label {value:<7} {_class_of(scheme, value)} "
        f"({plural(cases_with[value], 'case')}, {plural(voxels_of[value], 'voxel')})"
        for value in sorted(cases_with)[:MOST_LABELS]
    ]
    return lines + (anomalies.lines(cohort, refusals) or ["Anomalies: none"])


def summary(cohort: Cohort, allow_missing: bool = False) -> list[str]:
    """Describes the cohort in text lines, from names and headers; no voxel is read.

    Args:
        cohort: the cohort.
        allow_missing: whether cases may lack modalities.

    Raises:
        InputError: no case in the sample can be used; quotes the first reason.
    """
    step = -(-len(cohort.cases) // SAMPLE)
    sample = cohort.cases[::step]
    grids, anomalies, refusals = _Grids(), inventory.Anomalies(), {}
    for case in sample:
        for note in (*case.notes, *(missing_notes(case.missing) if allow_missing else ())):
            anomalies.add(note, case.case_id)
        try:
            if case.missing and not allow_missing:
                case.image(case.missing[0])
            geometry = _geometry(case)
        except CaseError as error:
            refusals[case.case_id] = str(error)
            continue
        grids.add(
            geometry.lps_shape,
            tuple(round(size, 3) for size in geometry.spacing_mm),
            "".join(geometry.orientation),
        )
    if len(refusals) == len(sample):
        raise InputError(
            f"{cohort.root}: none of its {len(sample)} cases can be used; "
            f"{next(iter(refusals.values()))}"
        )
    lines = [*inventory.lines(cohort), *grids.lines()]
    if step > 1:
        lines.append(
            f"  headers       read of {len(sample):,} cases, every {step}th; --inspect reads all"
        )
    return lines + anomalies.lines(cohort, refusals)


class _Grids:
    """Counts of shapes, spacings and orientations."""

    def __init__(self):
        self._shapes = Counter[str]()
        self._spacings = Counter[str]()
        self._orientations = Counter[str]()

    def add(self, shape, spacing_mm, orientation):
        """Counts the grid of one case; None is not counted."""
        if shape is not None:
            self._shapes["x".join(map(str, shape))] += 1
        if spacing_mm is not None:
            self._spacings["x".join(f"{size:g}" for size in spacing_mm)] += 1
        if orientation is not None:
            self._orientations[orientation] += 1

    def lines(self):
        return [
            f"  shape         {inventory.counts(self._shapes)}",
            f"  spacing in mm {inventory.counts(self._spacings)}",
            f"  orientation   {inventory.counts(self._orientations)}",
        ]


def _geometry(case: Case) -> Geometry:
    name = next((name for name in spec.MODALITIES if name in case.images), spec.MODALITIES[0])
    return nifti.read_geometry(case.image(name), case.channels.get(name))


def _count_labels(mask: np.ndarray | None) -> dict[int, int]:
    """Counts the voxels of each label value; empty without a mask."""
    if mask is None:
        return {}
    low = int(mask.min())
    counts = np.bincount(mask.ravel().astype(np.int32) - low)
    return {int(value) + low: int(counts[value]) for value in np.flatnonzero(counts)}


def _unknown_labels(case: Case, labels: Iterable[int]) -> str | None:
    """Returns the reason to refuse a mask with these labels, or None."""
    scheme = spec.LABEL_SCHEMES[case.label_scheme]
    unknown = [value for value in labels if value not in scheme.values]
    if not unknown:
        return None
    return (
        f"{case.case_id}: the mask holds label {', '.join(map(str, unknown[:8]))}; scheme "
        f"{scheme.name} knows {', '.join(map(str, sorted(scheme.values)))}; name the scheme of "
        "its release with --label_scheme"
    )


def _class_of(scheme: spec.LabelScheme, value: int) -> str:
    """Names the class of a label value for people."""
    if value not in scheme.values:
        return f"UNKNOWN to scheme {scheme.name}"
    class_id = scheme.values.index(value)
    return ", ".join(dict.fromkeys((spec.CLASS_NAMES[class_id], spec.CLASS_TITLES[class_id])))


def _anomalies(raw: nifti.RawCase, ranges: Iterable[tuple[str, float, float]]) -> Iterator[str]:
    """Yields the harmless anomalies of the voxels."""
    if raw.volumes.shape[:3] != spec.BRATS_GRID:
        yield "grid other than 240x240x155: --crop=auto takes a window around the brain"
    if not is_one_millimetre(raw.geometry.spacing_mm):
        yield "spacing off 1 mm: resampled with --resample=1mm, and back on output"
    for name, low, high in ranges:
        if low == high:
            yield f"{name} has one value everywhere: kept, it becomes zero when normalised"
    if raw.mask is None:
        return
    if not raw.mask.any():
        yield "mask without tumour: kept as a healthy case"
    elif "flair" in raw.modalities and "flair" not in raw.missing:
        flair = raw.volumes[..., raw.modalities.index("flair")]
        if ((raw.mask != 0) & (flair == 0)).any():
            yield "tumour voxels where FLAIR is 0: kept"
