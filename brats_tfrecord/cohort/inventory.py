"""Text lines that describe a cohort: patients, ids, layout and anomalies."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable

from brats_tfrecord.cohort import naming
from brats_tfrecord.cohort.case import Cohort
from brats_tfrecord.wording import plural

_GAPS_SHOWN = 6
_CASES_SHOWN = 3
_KINDS_SHOWN = 6
_REFUSALS_SHOWN = 20
_ID = re.compile(r"(.*?)(\d+)", re.DOTALL)


def lines(cohort: Cohort) -> list[str]:
    """Describes patients, cases, grades, ids, layout and label scheme, from names alone."""
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


def id_ranges(case_ids: Iterable[str]) -> list[str]:
    """Describes the first and last id and the missing numbers, one text for each id prefix.

    For ids that end in a timepoint, the number of the patient is used.

    >>> id_ranges(["BraTS20_Training_001", "BraTS20_Training_004"])
    ['BraTS20_Training_001 to BraTS20_Training_004 (2), gaps at 2-3']
    """
    by_prefix: dict[str | None, list[tuple[int, str]]] = {}
    for case_id in case_ids:
        match = _ID.fullmatch(naming.patient_of(case_id))
        prefix, number = (match[1], int(match[2])) if match else (None, 0)
        by_prefix.setdefault(prefix, []).append((number, case_id))
    texts = []
    for prefix, ids in sorted(by_prefix.items(), key=lambda item: item[0] or ""):
        (_, first), (_, last) = min(ids), max(ids)
        text = first if len(ids) == 1 else f"{first} to {last} ({len(ids)})"
        gaps = _gaps(sorted({number for number, _ in ids})) if prefix is not None else []
        more = f" and {len(gaps) - _GAPS_SHOWN} more" if len(gaps) > _GAPS_SHOWN else ""
        texts.append(
            f"{text}, {'gaps at ' + ', '.join(gaps[:_GAPS_SHOWN]) if gaps else 'no gaps'}{more}"
        )
    return texts


def counts(counter: Counter[str]) -> str:
    """Formats counts, at most six, highest first: "240x240x155 (368), 182x218x182 (1)"."""
    shown = ", ".join(f"{name} ({number:,})" for name, number in counter.most_common(_KINDS_SHOWN))
    hidden = len(counter) - _KINDS_SHOWN
    return shown + (f" and {hidden} more" if hidden > 0 else "") or "unknown"


class Anomalies:
    """Counts of each note, with the first few case ids."""

    def __init__(self) -> None:
        self._cases: dict[str, tuple[int, list[str]]] = {}

    def add(self, note: str, case_id: str) -> None:
        """Counts `note` for a case."""
        number, case_ids = self._cases.get(note, (0, []))
        self._cases[note] = number + 1, sorted([*case_ids, case_id])[:_CASES_SHOWN]

    def lines(self, cohort: Cohort, refusals: dict[str, str]) -> list[str]:
        """Formats the notes of the cohort, the counted notes and the refusals.

        Args:
            cohort: its own notes come first.
            refusals: case id -> reason.

        Returns:
            lines below the line "Anomalies:"; empty without any anomaly.
        """
        texts = [f"  {note}" for note in cohort.notes]
        for note, (number, case_ids) in sorted(self._cases.items(), key=lambda item: -item[1][0]):
            more = " …" if number > len(case_ids) else ""
            texts.append(f"  {plural(number, 'case')} ({', '.join(case_ids)}{more}): {note}")
        for case_id in sorted(refusals)[:_REFUSALS_SHOWN]:
            texts.append(f"  will be refused: {refusals[case_id]}")
        if len(refusals) > _REFUSALS_SHOWN:
            texts.append(f"  will be refused: {len(refusals) - _REFUSALS_SHOWN:,} more cases")
        return ["Anomalies:", *texts] if texts else []


def _gaps(numbers):
    """Formats the runs of whole numbers missing from a sorted list."""
    return [
        f"{low + 1}" if high - low == 2 else f"{low + 1}-{high - 1}"
        for low, high in itertools.pairwise(numbers)
        if high - low > 1
    ]
