"""What a cohort holds: in a few lines before hours of work start, or case by case for a table."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from brats_tfrecord import spec
from brats_tfrecord.cohort import inventory, nifti
from brats_tfrecord.errors import CaseError, InputError

SAMPLE = 2000
"""Headers that `summary` reads at most, spread over the cohort."""

MOST_LABELS = 32
"""Label values that are told of a mask; more are those of an image in its place."""

DOCUMENTED_GRID = (240, 240, 155)
"""Voxels of every BraTS volume: what the documented crop window is made for."""


@dataclass(frozen=True)
class Examination:
    """What reading one whole case brought to light; small, for tens of thousands of them.

    Attributes:
        case_id: the case.
        shape: (X, Y, Z) in LPS order; None where no header could be read, as the next two.
        spacing_mm: (X, Y, Z) in LPS order, to a thousandth.
        orientation: axis codes of the first file, such as "LPS".
        intensities: (modality, lowest, highest) each; empty where the files cannot be read.
        labels: (the mask's own value, voxels) each, `MOST_LABELS` at most; empty without a mask or
            where it cannot be read.
        notes: what is unusual, each "what: what will be done", equal for equal anomalies.
        refusal: why the case cannot be used, in one line; None where it can.
    """

    case_id: str
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    orientation: str | None = None
    intensities: tuple[tuple[str, float, float], ...] = ()
    labels: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()
    refusal: str | None = None


def examine(case, **how_to_read):
    """Reads one whole case; bad input becomes a refusal, never an exception.

    Args:
        case: a `case.Case`.
        **how_to_read: keyword arguments of `nifti.read_case`.

    Returns:
        an `Examination`.
    """
    found, notes = {"case_id": case.case_id}, list(case.notes)
    refusal = None
    try:
        geometry = _geometry(case)
        found.update(
            shape=geometry.lps_shape,
            orientation="".join(geometry.orientation),
            spacing_mm=tuple(round(size, 3) for size in geometry.spacing_mm),
        )
        raw = nifti.read_case(case, **how_to_read)
        volumes = zip(raw.modalities, np.moveaxis(raw.volumes, -1, 0))
        ranges = [(name, float(volume.min()), float(volume.max())) for name, volume in volumes]
        labels = _count_labels(raw.mask)
        found.update(intensities=tuple(ranges), labels=tuple(labels.items())[:MOST_LABELS])
        notes += [*raw.notes, *_observations(raw, ranges)]
        refusal = _unknown_labels(case, labels)
    except (CaseError, OSError, MemoryError) as error:
        refusal = " ".join(str(error).split()) or type(error).__name__
    return Examination(**found, notes=tuple(notes), refusal=refusal)


def table(cohort, examinations):
    """The whole cohort as lines for people, after every case was read.

    Args:
        cohort: `case.Cohort`.
        examinations: `Examination` by case, in any order; taken one by one, none is kept.
    """
    grids = [Counter(), Counter(), Counter()]
    ranges, values, anomalies, refusals = {}, {}, {}, {}
    for found in examinations:
        for counter, shown in zip(
            grids,
            (
                found.shape and _times(found.shape),
                found.spacing_mm and _times(found.spacing_mm),
                found.orientation,
            ),
        ):
            counter.update([shown] if shown else [])
        for name, low, high in found.intensities:
            lowest, highest = ranges.get(name, (low, high))
            ranges[name] = min(low, lowest), max(high, highest)
        for value, voxels in found.labels:
            entry = values.setdefault(value, [0, 0])
            entry[:] = entry[0] + 1, entry[1] + voxels
        for note in dict.fromkeys(found.notes):
            inventory.count(anomalies, note, found.case_id)
        if found.refusal:
            refusals[found.case_id] = found.refusal
    scheme = spec.LABEL_SCHEMES[cohort.label_scheme]
    lines = [*inventory.lines(cohort), *_grid_lines(*grids)]
    lines += [f"  intensity     {name} {low:g} to {high:g}" for name, (low, high) in ranges.items()]
    for value, (count, voxels) in sorted(values.items())[:MOST_LABELS]:
        lines.append(
            f"  label {value:<7} {_class_of(scheme, value)} "
            f"({inventory.plural(count, 'case')}, {inventory.plural(voxels, 'voxel')})"
        )
    return [*lines, *inventory.anomaly_lines(cohort, anomalies, refusals)]


def summary(cohort):
    """The cohort as lines for people, by names and headers: no voxel is read.

    Raises:
        InputError: not one case can be used, as far as that tells; quotes the first reason.
    """
    step = -(-len(cohort.cases) // SAMPLE)
    sample = cohort.cases[::step]
    grids, refusals, anomalies = [Counter(), Counter(), Counter()], {}, {}
    for case in sample:
        for note in case.notes:
            inventory.count(anomalies, note, case.case_id)
        try:
            for name in spec.MODALITIES:
                case.image(name)
            geometry = _geometry(case)
        except CaseError as error:
            refusals[case.case_id] = str(error)
            continue
        for counter, shown in zip(
            grids,
            (
                _times(geometry.lps_shape),
                _times(round(size, 3) for size in geometry.spacing_mm),
                "".join(geometry.orientation),
            ),
        ):
            counter[shown] += 1
    if len(refusals) == len(sample):
        raise InputError(
            f"{cohort.root}: none of its {len(sample)} cases can be used; "
            f"{next(iter(refusals.values()))}"
        )
    lines = [*inventory.lines(cohort), *_grid_lines(*grids)]
    if step > 1:
        lines.append(
            f"  headers       read of {len(sample):,} cases, every {step}th; --inspect reads all"
        )
    return [*lines, *inventory.anomaly_lines(cohort, anomalies, refusals, quiet=True)]


def _geometry(case):
    name = next((name for name in spec.MODALITIES if name in case.images), spec.MODALITIES[0])
    return nifti.read_geometry(case.image(name), case.channels.get(name))


def _count_labels(mask):
    if mask is None:
        return {}
    low = int(mask.min())
    counts = np.bincount(mask.ravel().astype(np.int32) - low)
    return {int(value) + low: int(counts[value]) for value in np.flatnonzero(counts)}


def _unknown_labels(case, labels):
    """Why a mask with these labels is refused, or None."""
    scheme = spec.LABEL_SCHEMES[case.label_scheme]
    unknown = [value for value in labels if value not in scheme.values]
    if not unknown:
        return None
    return (
        f"{case.case_id}: the mask holds label {', '.join(map(str, unknown[:8]))}; scheme "
        f"{scheme.name} knows {', '.join(map(str, sorted(scheme.values)))}; name the scheme of "
        "its release with --label_scheme"
    )


def _class_of(scheme, value):
    """The class that a label value stands for under `scheme`, for people."""
    if value not in scheme.values:
        return f"UNKNOWN to scheme {scheme.name}"
    class_id = scheme.values.index(value)
    return ", ".join(dict.fromkeys((spec.CLASS_NAMES[class_id], spec.CLASS_TITLES[class_id])))


def _observations(raw, ranges):
    """Yields what is unusual in the voxels and harmless."""
    if raw.volumes.shape[:3] != DOCUMENTED_GRID:
        yield "grid other than 240x240x155: --crop=auto takes a window around the brain"
    if not nifti.is_millimetre(raw.geometry):
        yield "spacing off 1 mm: resampled with --resample=1mm, and back on output"
    for name, low, high in ranges:
        if low == high:
            yield f"{name} has one value everywhere: kept, it becomes zero when normalised"
    if raw.mask is None:
        return
    if not raw.mask.any():
        yield "mask without tumour: kept as a healthy case"
    elif "flair" in raw.modalities:
        flair = raw.volumes[..., raw.modalities.index("flair")]
        if ((raw.mask != 0) & (flair == 0)).any():
            yield "tumour voxels where FLAIR is 0: kept"


def _grid_lines(shapes, spacings, axes):
    return [
        f"  shape         {inventory.counts(shapes)}",
        f"  spacing in mm {inventory.counts(spacings)}",
        f"  orientation   {inventory.counts(axes)}",
    ]


def _times(numbers):
    return "x".join(f"{number:g}" for number in numbers)
