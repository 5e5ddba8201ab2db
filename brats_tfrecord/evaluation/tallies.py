"""What is summed over cases: confusion of classes, what the crop cost, where the time went."""

import statistics
from dataclasses import dataclass

import numpy as np

from brats_tfrecord import spec


@dataclass(frozen=True)
class Confusion:
    """Voxels of true class i predicted as class j, over cases.

    Attributes:
        names: the classes, background first.
        counts: list of lists of int [classes, classes], rows are the truth.
        shares: counts over their row's sum; None in the background's row, where air would drown
            all else, and where the truth never has the class.
        right: of the voxels predicted as each class, the share that is right; None for background
            and where nothing was predicted so.
        cases: how many were summed.
    """

    names: tuple[str, ...]
    counts: list[list[int]]
    shares: list[list[float | None]]
    right: list[float | None]
    cases: int


def confusion(rows):
    """Sums the confusion matrices of `tables.CaseResult`s; None if no row has one."""
    matrices = [np.array(row.confusion, np.int64) for row in rows if row.confusion is not None]
    if not matrices:
        return None
    total = np.sum(matrices, axis=0)
    truth, predicted = total.sum(axis=1), total.sum(axis=0)
    shares = [
        [None if which == spec.BACKGROUND else _share(count, truth[which]) for count in row]
        for which, row in enumerate(total)
    ]
    right = [
        None if which == spec.BACKGROUND else _share(total[which, which], predicted[which])
        for which in range(len(total))
    ]
    return Confusion(spec.CLASS_NAMES[: len(total)], total.tolist(), shares, right, len(matrices))


@dataclass(frozen=True)
class CropLoss:
    """How much of one tissue the recipe's window leaves out, over cases.

    Attributes:
        what: "brain" or "tumour".
        cases: how many cases it is known of.
        touched: how many of them lose any.
        median, worst: shares lost.
        worst_case: id of the case that loses most; None if none loses any.
    """

    what: str
    cases: int
    touched: int
    median: float
    worst: float
    worst_case: str | None


def crop_losses(rows):
    """`CropLoss` of brain and of tumour over `tables.CaseResult`s; what no row knows is left out."""
    losses = []
    for what in ("brain", "tumour"):
        known = [
            (row.crop[what], row.case_id)
            for row in rows
            if row.crop is not None and row.crop.get(what) is not None
        ]
        if known:
            worst, case_id = max(known, key=lambda pair: pair[0])
            losses.append(
                CropLoss(
                    what,
                    len(known),
                    sum(share > 0 for share, _ in known),
                    statistics.median(share for share, _ in known),
                    worst,
                    case_id if worst > 0 else None,
                )
            )
    return losses


@dataclass(frozen=True)
class StageTime:
    """Seconds a case of one stage, and its share of the time of all stages."""

    stage: str
    cases: int
    median: float
    longest: float
    share: float


def stage_times(rows):
    """`StageTime` of every stage of `tables.CaseResult`s, in the order in which they first come."""
    seconds = {}
    for row in rows:
        for stage, time in (row.stages or {}).items():
            seconds.setdefault(stage, []).append(time)
    total = sum(map(sum, seconds.values())) or 1.0
    return [
        StageTime(stage, len(times), statistics.median(times), max(times), sum(times) / total)
        for stage, times in seconds.items()
    ]


def _share(count, whole):
    return float(count / whole) if whole else None
