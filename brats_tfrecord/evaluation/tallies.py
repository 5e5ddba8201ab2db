"""Statistics over cases: confusion of classes, crop losses, stage times."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brats_tfrecord import spec
from brats_tfrecord.evaluation.case_results import CaseResult


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix of the classes, summed over cases.

    Attributes:
        names: class names, background first.
        counts: number of voxels of true class i predicted as class j, [classes, classes].
        shares: counts divided by the sum of their row. None in the row of the background, where
            air would dominate, and in rows of classes that the truth does not contain.
        precision: share of the voxels predicted as each class that is correct; None for the
            background and for classes that were not predicted.
        cases: number of cases summed.
    """

    names: tuple[str, ...]
    counts: list[list[int]]
    shares: list[list[float | None]]
    precision: list[float | None]
    cases: int


def confusion(rows: Sequence[CaseResult]) -> Confusion | None:
    """Sums the confusion matrices of the rows; returns None if no row has one."""
    matrices = [np.array(row.confusion, np.int64) for row in rows if row.confusion is not None]
    if not matrices:
        return None
    total = np.sum(matrices, axis=0)
    truth, predicted = total.sum(axis=1), total.sum(axis=0)
    shares = [
        [None if index == spec.BACKGROUND else _share(count, truth[index]) for count in row]
        for index, row in enumerate(total)
    ]
    precision = [
        None if index == spec.BACKGROUND else _share(total[index, index], predicted[index])
        for index in range(len(total))
    ]
    return Confusion(
        spec.CLASS_NAMES[: len(total)], total.tolist(), shares, precision, len(matrices)
    )


@dataclass(frozen=True)
class CropLoss:
    """Share of one tissue outside the recipe's window, over cases.

    Attributes:
        tissue: "brain" or "tumour".
        cases: number of cases for which the share is known.
        affected: number of them that lose any.
        median, worst: median and largest share.
        worst_case: id of the case with the largest share; None if no case loses any.
    """

    tissue: str
    cases: int
    affected: int
    median: float
    worst: float
    worst_case: str | None


def crop_losses(rows: Sequence[CaseResult]) -> list[CropLoss]:
    """Summarises the crop's losses of brain and tumour; a tissue that no row reports is omitted."""
    losses = []
    for tissue in ("brain", "tumour"):
        shares = [
            (share, row.case_id)
            for row in rows
            if row.crop is not None and (share := row.crop.get(tissue)) is not None
        ]
        if shares:
            worst, case_id = max(shares, key=lambda pair: pair[0])
            losses.append(
                CropLoss(
                    tissue,
                    len(shares),
                    sum(share > 0 for share, _ in shares),
                    statistics.median(share for share, _ in shares),
                    worst,
                    case_id if worst > 0 else None,
                )
            )
    return losses


@dataclass(frozen=True)
class MissingGroup:
    """Mean Dice of the cases that lack the same modalities.

    Attributes:
        missing: names of the model's modalities that the cases lack; empty for complete cases.
        cases: number of cases.
        dice: region -> mean Dice over the cases where it is defined, or None.
    """

    missing: tuple[str, ...]
    cases: int
    dice: dict[str, float | None]


def dice_by_missing(rows: Sequence[CaseResult]) -> list[MissingGroup]:
    """Groups compared rows by what their cases lack; complete cases first.

    Returns an empty list if no case lacks anything.
    """
    by_missing: dict[tuple[str, ...], list[CaseResult]] = {}
    for row in rows:
        by_missing.setdefault(row.missing, []).append(row)
    if not any(by_missing):
        return []
    return [
        MissingGroup(
            missing, len(group), {region: _mean_dice(group, region) for region in spec.REGIONS}
        )
        for missing, group in sorted(by_missing.items(), key=lambda item: (len(item[0]), item[0]))
    ]


@dataclass(frozen=True)
class StageTime:
    """Time of one stage over cases: seconds per case, and its share of the time of all stages."""

    stage: str
    cases: int
    median: float
    longest: float
    share: float


def stage_times(rows: Sequence[CaseResult]) -> list[StageTime]:
    """Summarises the time of every stage, in the order of first appearance."""
    seconds: dict[str, list[float]] = {}
    for row in rows:
        for stage, time in (row.stages or {}).items():
            seconds.setdefault(stage, []).append(time)
    total = sum(sum(times) for times in seconds.values()) or 1.0
    return [
        StageTime(stage, len(times), statistics.median(times), max(times), sum(times) / total)
        for stage, times in seconds.items()
    ]


def _mean_dice(rows, region):
    dice = [row.metrics[region]["dice"] for row in rows if row.metrics is not None]
    defined = [value for value in dice if value is not None]
    return statistics.fmean(defined) if defined else None


def _share(count, total):
    return float(count / total) if total else None
