"""Lines for people about a cohort: whom it holds, and what is unusual in it."""

import itertools
import re
from collections import Counter

from brats_tfrecord.cohort import naming
from brats_tfrecord.wording import plural

_GAPS_SHOWN = 6
_CASES_SHOWN = 3
_KINDS_SHOWN = 6
_REFUSALS_SHOWN = 20
_ID = re.compile(r"(.*?)(\d+)", re.DOTALL)


def lines(cohort):
    """Patients, cases, grades, ids, layout and label scheme of a `case.Cohort`, by names alone."""
    cases = cohort.cases
    patients = len({case.patient_id for case in cases})
    labelled = sum(case.mask is not None for case in cases)
    grades = Counter(case.grade or "grade unknown" for case in cases)
    known = "" if set(grades) == {"grade unknown"} else "; " + counts(grades)
    ids = id_ranges(case.case_id for case in cases)
    more = [f"  and {len(ids) - _KINDS_SHOWN} more kinds of ids"] if len(ids) > _KINDS_SHOWN else []
    return [
        f"{cohort.root}: {plural(patients, 'patient')}, {plural(len(cases), 'case')} "
        f"({labelled:,} labelled{known})",
        *(f"  ids           {text}" for text in ids[:_KINDS_SHOWN]),
        *more,
        f"  layout        {cohort.layout}",
        f"  label scheme  {cohort.label_scheme} ({cohort.reason})",
    ]


def id_ranges(case_ids):
    """First and last id, and the numbers missing between, for each way to begin an id.

    Of ids that end in a timepoint, the patient's number counts.

    >>> id_ranges(["BraTS20_Training_001", "BraTS20_Training_004"])
    ['BraTS20_Training_001 to BraTS20_Training_004 (2), gaps at 2-3']
    """
    kinds = {}
    for case_id in case_ids:
        match = _ID.fullmatch(naming.patient_of(case_id))
        kinds.setdefault(match[1] if match else None, []).append(
            (int(match[2]) if match else 0, case_id)
        )
    texts = []
    for prefix, found in sorted(kinds.items(), key=lambda item: item[0] or ""):
        (_, first), (_, last) = min(found), max(found)
        text = first if len(found) == 1 else f"{first} to {last} ({len(found)})"
        gaps = _gaps(sorted({number for number, _ in found})) if prefix is not None else []
        more = f" and {len(gaps) - _GAPS_SHOWN} more" if len(gaps) > _GAPS_SHOWN else ""
        texts.append(
            f"{text}, {'gaps at ' + ', '.join(gaps[:_GAPS_SHOWN]) if gaps else 'no gaps'}{more}"
        )
    return texts


def counts(counter):
    """ "240x240x155 (368), 182x218x182 (1)": the most common first, six at most."""
    shown = ", ".join(f"{name} ({count:,})" for name, count in counter.most_common(_KINDS_SHOWN))
    rest = len(counter) - _KINDS_SHOWN
    return shown + (f" and {rest} more" if rest > 0 else "") or "unknown"


def count(anomalies, note, case_id):
    """Counts `note` for a case, keeping the first few ids: `anomalies` is note -> [count, ids]."""
    entry = anomalies.setdefault(note, [0, []])
    entry[0] += 1
    entry[1] = sorted([*entry[1], case_id])[:_CASES_SHOWN]


def anomaly_lines(cohort, anomalies, refusals, *, quiet=False):
    """The anomalies with count, cases and what will be done; then each refusal.

    Args:
        cohort: `case.Cohort`; its own notes come first.
        anomalies: as `count` fills it.
        refusals: dict case id -> reason.
        quiet: say nothing where there is nothing.
    """
    if not (cohort.notes or anomalies or refusals):
        return [] if quiet else ["Anomalies: none"]
    found = [f"  {note}" for note in cohort.notes]
    for note, (number, case_ids) in sorted(anomalies.items(), key=lambda item: -item[1][0]):
        more = " …" if number > len(case_ids) else ""
        found.append(f"  {plural(number, 'case')} ({', '.join(case_ids)}{more}): {note}")
    for case_id in sorted(refusals)[:_REFUSALS_SHOWN]:
        found.append(f"  will be refused: {refusals[case_id]}")
    if len(refusals) > _REFUSALS_SHOWN:
        found.append(f"  will be refused: {len(refusals) - _REFUSALS_SHOWN:,} more cases")
    return ["Anomalies:", *found]


def _gaps(numbers):
    """The runs of whole numbers missing from a sorted list, as text."""
    return [
        f"{low + 1}" if high - low == 2 else f"{low + 1}-{high - 1}"
        for low, high in itertools.pairwise(numbers)
        if high - low > 1
    ]
