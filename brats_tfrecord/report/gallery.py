"""Selects the cases whose pictures the report shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from brats_tfrecord import spec
from brats_tfrecord.evaluation import case_results
from brats_tfrecord.evaluation.case_results import CaseResult

_RANKS = ("worst", "median", "best")


@dataclass(frozen=True)
class Picture:
    """The picture of one case in the report.

    Attributes:
        case_id: id of the case.
        heading: why the case is shown, such as "WT: worst, ET: median".
        caption: text below the picture.
        png: PNG bytes.
    """

    case_id: str
    heading: str
    caption: str
    png: bytes


def pictures(rows: Sequence[CaseResult], paths: Mapping[str, Path], limit: int) -> list[Picture]:
    """Returns the pictures to show, in order.

    Args:
        rows: results of the evaluation.
        paths: case id -> PNG file; cases without a file are not considered.
        limit: maximum number of pictures.
    """
    drawn = [row for row in rows if row.case_id in paths]
    return [
        Picture(row.case_id, heading, caption(row), paths[row.case_id].read_bytes())
        for row, heading in select_cases(drawn, limit)
    ]


def select_cases(rows: Sequence[CaseResult], limit: int) -> list[tuple[CaseResult, str]]:
    """Selects the worst, median and best case of every region by Dice among the headline's cases.

    The worst cases of all regions come first, then the median, then the best ones, since failures
    are the most instructive. A case with several headings counts once. The rest of the limit is
    filled with unlabelled cases, in their order.

    Args:
        rows: results of the evaluation.
        limit: maximum number of cases.

    Returns:
        list of (row, heading), with headings such as "WT: worst, ET: median".
    """
    selected: dict[str, tuple[CaseResult, list[str]]] = {}
    unlabelled = [("unlabelled", row) for row in rows if row.status == "unlabelled"]
    for heading, row in [*_extremes(rows), *unlabelled]:
        if row.case_id in selected or len(selected) < limit:
            selected.setdefault(row.case_id, (row, []))[1].append(heading)
    return [(row, ", ".join(headings)) for row, headings in selected.values()]


def caption(row: CaseResult) -> str:
    """Returns the caption of a case's picture: use and Dice of every region."""
    if row.metrics is None:
        return "unlabelled"
    dice = ", ".join(
        f"{region} {'–' if value is None else format(value, '.3f')}"
        for region, value in ((region, row.metrics[region]["dice"]) for region in spec.REGIONS)
    )
    return f"{row.use}; Dice {dice}"


def _extremes(rows):
    """List of (heading, row): worst, median and best of every region, a case once per region."""
    ranked = {region: _ranked(rows, region) for region in spec.REGIONS}
    return [
        (f"{region}: {rank}", ranked[region][rank])
        for rank in _RANKS
        for region in spec.REGIONS
        if rank in ranked[region]
    ]


def _ranked(rows, region):
    """Rank -> row of one region; a row has the first of worst, best, median that applies."""
    dice = [
        (row.metrics[region]["dice"], row.case_id, row)
        for row in case_results.headline_rows(rows)
        if row.metrics is not None and row.metrics[region]["dice"] is not None
    ]
    ordered = [row for *_, row in sorted(dice, key=lambda entry: entry[:2])]
    if not ordered:
        return {}
    ranks: dict[int, str] = {}
    for rank, index in (("worst", 0), ("best", len(ordered) - 1), ("median", len(ordered) // 2)):
        ranks.setdefault(index, rank)
    return {rank: ordered[index] for index, rank in ranks.items()}
