"""Bootstrap confidence intervals of means over cases, resampled by patient."""

from collections.abc import Hashable, Sequence

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
FEW_PATIENTS = 10
"""Percentile bootstrap intervals of fewer patients are too narrow (Hesterberg 2015, The American
Statistician 69(4)): for normal data and P patients they have about sqrt((P - 1) / P) * 1.96 / t of
the width of the t interval with its quantile t: 0.63 with 5 patients, 0.82 with 10."""

FEW_PATIENTS_NOTE = (
    f"* An interval from fewer than {FEW_PATIENTS} patients is too narrow: with five patients it "
    "has about two thirds of the width it should have."
)
"""Printed wherever such an interval is."""

_SEED = 20201004
_CHUNK = 1_000_000
"""Number of draws held in memory at a time, whatever the number of patients."""


def bootstrap_means(
    values: np.ndarray, patients: Sequence[Hashable]
) -> list[tuple[float, float] | None]:
    """Computes percentile bootstrap intervals (Efron 1979) of the means of several columns.

    Each resample draws P of the P patients with replacement and takes the mean over all of their
    cases, because examinations of one patient are not independent. The seed is fixed: the same
    input gives the same intervals.

    Args:
        values: float [N, M], one row per case and one column per metric; NaN where undefined.
            Patients without a defined value are left out of a column.
        patients: N patient ids.

    Returns:
        M pairs (low, high) that enclose the central `LEVEL` of the `RESAMPLES` means; None for a
        column with values of fewer than two patients. Below `FEW_PATIENTS` patients the intervals
        are too narrow.
    """
    values = np.asarray(values, float)
    sums, counts = _totals(values, patients)
    intervals: list[tuple[float, float] | None] = [None] * values.shape[1]
    # Columns that are defined for the same patients share one set of resamples.
    for pattern in {column.tobytes() for column in (counts > 0).T}:
        members = np.frombuffer(pattern, bool)
        columns = [
            column
            for column in range(values.shape[1])
            if (counts[:, column] > 0).tobytes() == pattern
        ]
        if np.count_nonzero(members) > 1:
            limits = _percentiles(sums[members][:, columns], counts[members][:, columns])
            for column, low, high in zip(columns, *limits):
                intervals[column] = (float(low), float(high))
    return intervals


def patient_means(values: np.ndarray, patients: Sequence[Hashable]) -> np.ndarray:
    """Averages the cases of each patient, so that the patient is the unit of a statistic.

    Args:
        values: float [N, M], one row per case; NaN where undefined.
        patients: N patient ids.

    Returns:
        float64 [P, M], patients in order of first appearance; the mean over the patient's defined
        values, NaN without any.
    """
    sums, counts = _totals(np.asarray(values, float), patients)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _totals(values, patients):
    """(sum, number) of the defined values of each patient, both [P, M]."""
    numbers = {patient: index for index, patient in enumerate(dict.fromkeys(patients))}
    patient_of_row = np.array([numbers[patient] for patient in patients], np.intp)
    defined = ~np.isnan(values)
    sums, counts = (np.zeros((len(numbers), values.shape[1])) for _ in range(2))
    np.add.at(sums, patient_of_row, np.where(defined, values, 0))
    np.add.at(counts, patient_of_row, defined)
    return sums, counts


def _percentiles(sums, counts):
    """Percentiles, [2, M], of the resampled means; `sums` and `counts` are [P, M] by patient."""
    patients = len(sums)
    rng = np.random.default_rng(_SEED)
    step, means = max(_CHUNK // patients, 1), []
    for first in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - first)
        drawn = rng.integers(patients, size=(size, patients))
        drawn += np.arange(size)[:, None] * patients
        times = np.bincount(drawn.ravel(), minlength=size * patients).reshape(size, patients)
        means.append(times @ sums / (times @ counts))
    tail = 50 * (1 - LEVEL)
    return np.percentile(np.concatenate(means), (tail, 100 - tail), axis=0)
