"""Exact Wilcoxon signed-rank test, ties included."""

from typing import NamedTuple

import numpy as np
from scipy import stats

ALPHA = 0.05
MIN_DIFFERENCES = 6
"""With n non-zero differences the smallest two-sided p is 2 / 2^n: 0.0625 for 5, 0.03125 for 6."""

MAX_EXACT = 200
"""With more non-zero differences the normal approximation replaces the exact distribution."""

_DECIMALS = 10
"""Differences equal to this many decimals are ties: rounding errors must not separate 0.9 - 0.8
from 0.8 - 0.7. A voxel changes no metric by less."""


class SignedRank(NamedTuple):
    """Result of the test.

    Attributes:
        p: two-sided p value; None without a non-zero difference.
        differing: number of non-zero differences.
    """

    p: float | None
    differing: int


def signed_rank_test(differences: np.ndarray) -> SignedRank:
    """Tests whether paired differences are symmetric about zero (Wilcoxon 1945, Biometrics 1(6)).

    Differences of zero are left out, tied magnitudes share their mean rank. Up to `MAX_EXACT`
    non-zero differences, p is the exact permutation probability over all 2^n signs, computed by
    the shift algorithm (Streitberg and Röhmel 1986, Statistical Software Newsletter 12(1)).
    `scipy.stats.wilcoxon` has the exact distribution only without ties, and enumerates all signs
    otherwise, which takes too long from about 20 differences on. Beyond `MAX_EXACT`, p is SciPy's
    normal approximation with its correction for ties.

    Args:
        differences: float [N], one per patient; NaN is left out.
    """
    values = np.round(differences[~np.isnan(differences)], _DECIMALS)
    values = values[values != 0]
    if not values.size:
        return SignedRank(None, 0)
    if values.size > MAX_EXACT:
        p = float(stats.wilcoxon(values, method="asymptotic").pvalue)
    else:
        p = _exact_p(values)
    return SignedRank(p, values.size)


def _exact_p(values):
    """Share of the 2^n signs whose rank sum is as far from its mean, or farther."""
    # Mean ranks are multiples of a half, so twice the ranks are integers.
    ranks = np.rint(2 * stats.rankdata(np.abs(values))).astype(int)
    total = int(ranks.sum())
    probabilities = np.zeros(total + 1)  # of each sum of the positive ranks
    probabilities[0], largest = 1.0, 0
    for rank in ranks:
        halves = probabilities[: largest + 1] / 2
        probabilities[: largest + 1] = halves
        probabilities[rank : rank + largest + 1] += halves
        largest += rank
    distances = np.abs(2 * np.arange(total + 1) - total)
    observed = abs(2 * int(ranks[values > 0].sum()) - total)
    return min(float(probabilities[distances >= observed].sum()), 1.0)
