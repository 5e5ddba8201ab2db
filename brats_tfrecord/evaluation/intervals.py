"""How sure a mean over cases is, where several cases may come from one patient."""

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
_SEED = 20201004
_CHUNK = 1_000_000
"""Draws held in memory at a time, whatever the number of patients."""


def bootstrap_means(values, patients):
    """Percentile bootstrap of the mean over patients (Efron 1979), for many figures at once.

    A resample draws as many patients as there are, with replacement, and each brings all of its
    cases: two examinations of one head are not two independent observations. The mean is over the
    cases drawn. The seed is fixed: the same rows give the same interval.

    Args:
        values: float [N, M], a row a case, a column a figure; NaN where it is undefined. A
            column's patients are those with a figure there.
        patients: N hashable patient ids.

    Returns:
        M pairs (low, high), floats that enclose the middle `LEVEL` of `RESAMPLES` means; None
        instead of a pair where fewer than two patients have a figure.
    """
    values = np.asarray(values, float)
    names = {patient: index for index, patient in enumerate(dict.fromkeys(patients))}
    owner = np.array([names[patient] for patient in patients], np.intp)
    known = ~np.isnan(values)
    sums, counts = (np.zeros((len(names), values.shape[1])) for _ in range(2))
    np.add.at(sums, owner, np.where(known, values, 0))
    np.add.at(counts, owner, known)
    intervals = [None] * values.shape[1]
    for has_figure in {column.tobytes() for column in (counts > 0).T}:
        members = np.frombuffer(has_figure, bool)
        columns = [
            column
            for column in range(values.shape[1])
            if (counts[:, column] > 0).tobytes() == has_figure
        ]
        if np.count_nonzero(members) > 1:
            ends = _ends(sums[members][:, columns], counts[members][:, columns])
            for column, low, high in zip(columns, *ends):
                intervals[column] = (float(low), float(high))
    return intervals


def _ends(sums, counts):
    """Percentiles, [2, M], of the means of resampled rows of sums and counts, both [P, M]."""
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
