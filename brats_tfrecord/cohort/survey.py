"""What a cohort holds, in a few lines, before hours of work start."""

import re
from collections import Counter

import numpy as np

from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.errors import CaseError, InputError

SAMPLE = 3
"""Cases whose voxels are read for the intensity ranges; headers are read of all."""


def survey(root, cases):
    """Looks at every header and at the voxels of a few cases.

    Returns:
        list of lines for people; a case that cannot be used, as far as names and headers tell, has
        a line that says why.

    Raises:
        InputError: not one case can be used; quotes the first reason.
    """
    problems, shapes, axes = {}, Counter(), Counter()
    for case in cases:
        try:
            geometry = nifti.read_geometry([case.image(name) for name in spec.MODALITIES][0])
            shapes["x".join(map(str, geometry.shape))] += 1
            axes["".join(geometry.orientation)] += 1
        except CaseError as error:
            problems[case.case_id] = str(error)
    usable = [case for case in cases if case.case_id not in problems]
    if not usable:
        raise InputError(f"{root}: none of its {len(cases)} cases can be used; "
                         f"{next(iter(problems.values()))}")
    return [
        _patients_line(root, cases),
        f"  ids           {id_range([case.case_id for case in cases])}",
        f"  shapes        {_counts(shapes)}",
        f"  orientation   {_counts(axes)}",
        *_voxel_lines(usable[:SAMPLE]),
        *(f"  problem       {reason}" for reason in problems.values()),
    ]


def id_range(case_ids):
    """First and last id and the numbers missing between, of ids that end in a number.

    >>> id_range(["BraTS20_Training_001", "BraTS20_Training_004"])
    'BraTS20_Training_001 to BraTS20_Training_004, gaps at 2-3'
    """
    numbers = {}
    for case_id in case_ids:
        match = re.fullmatch(r"(.*?)(\d+)", case_id)
        if match:
            numbers.setdefault(match[1], set()).add(int(match[2]))
    first, last = min(case_ids), max(case_ids)
    text = first if first == last else f"{first} to {last}"
    gaps = [gap for found in numbers.values() for gap in _gaps(sorted(found))]
    if not gaps:
        return f"{text}, no gaps"
    more = f" and {len(gaps) - 6} more" if len(gaps) > 6 else ""
    return f"{text}, gaps at {', '.join(gaps[:6])}{more}"


def _gaps(numbers):
    """The runs of whole numbers missing from a sorted list, as text."""
    return [f"{low + 1}" if high - low == 2 else f"{low + 1}-{high - 1}"
            for low, high in zip(numbers, numbers[1:]) if high - low > 1]


def _patients_line(root, cases):
    patients = len({case.patient_id for case in cases})
    labelled = sum(case.mask is not None for case in cases)
    grades = Counter(case.grade for case in cases if case.grade)
    text = f"{root}: {patients} patients, {len(cases)} cases ({labelled} labelled"
    if grades:
        text += "; " + _counts(grades)
    return text + ")"


def _voxel_lines(cases):
    """Intensity ranges and label values of a few cases."""
    ranges, labels, read = {}, set(), 0
    for case in cases:
        try:
            raw = nifti.read_case(case)
        except CaseError:
            continue  # conversion will name it; a survey must not stop the cohort
        read += 1
        for channel, name in enumerate(raw.modalities):
            volume = raw.volumes[..., channel]
            low, high = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = min(low, volume.min()), max(high, volume.max())
        if raw.mask is not None:
            labels.update(np.unique(raw.mask).tolist())
    if not read:
        return []
    shown = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in ranges.items())
    values = " ".join(map(str, sorted(labels))) or "none"
    scheme = f" (scheme {cases[0].label_scheme})" if labels else ""
    return [f"  intensities   {shown} (read from {read} cases)",
            f"  label values  {values}{scheme}"]


def _counts(counter):
    return ", ".join(f"{name} ({count})" for name, count in counter.most_common())
