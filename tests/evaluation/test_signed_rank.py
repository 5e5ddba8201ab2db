"""The exact signed-rank test against SciPy and against values that can be counted by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from brats_tfrecord.evaluation.signed_rank import MIN_DIFFERENCES, signed_rank_test

NO_TIES = {
    2: [0.1, 0.3],
    5: [0.1, 0.3, 0.2, 0.5, 0.4],
    6: [0.1, 0.3, 0.2, 0.5, 0.4, -0.6],
    20: [0.01 * n * (-1 if n in (3, 7, 11) else 1) for n in range(1, 21)],
}
TIES = {
    2: [0.1, 0.1],
    5: [0.1, 0.1, 0.2, 0.2, -0.1],
    6: [0.1, 0.1, 0.1, 0.2, 0.2, 0.3],
    # 15 of 20 share the magnitude 0.1.
    20: [0.1] * 11 + [-0.1] * 4 + [0.2, 0.3, -0.4, 0.5, 0.6],
}


def enumerated(differences):
    """p by trying all 2^n signs, in SciPy."""
    ranks = stats.rankdata(np.abs(differences)) * np.sign(differences)
    return stats.permutation_test(
        (ranks,),
        lambda sample, axis: sample.sum(axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        batch=1 << 16,
        vectorized=True,
    ).pvalue


@pytest.mark.parametrize("patients", NO_TIES)
def test_without_ties_it_is_scipys_exact_test(patients):
    result = signed_rank_test(np.array(NO_TIES[patients]))
    assert result.differing == patients
    assert result.p == pytest.approx(
        stats.wilcoxon(NO_TIES[patients], method="exact").pvalue, rel=1e-12
    )


@pytest.mark.parametrize("patients", [2, 5, 6])
def test_with_ties_it_is_scipys_exact_permutation_test(patients):
    result = signed_rank_test(np.array(TIES[patients]))
    assert result.differing == patients
    assert result.p == pytest.approx(enumerated(TIES[patients]), rel=1e-12)
    permutations = stats.PermutationMethod(n_resamples=np.inf)
    assert result.p == pytest.approx(
        stats.wilcoxon(TIES[patients], method=permutations).pvalue, rel=1e-12
    )


TWENTY_WITH_15_TIES = 0.032985687255859375
"""`enumerated(TIES[20])`: 34588 of the 2^20 signs."""


def test_20_patients_with_15_ties():
    assert signed_rank_test(np.array(TIES[20])) == (TWENTY_WITH_15_TIES, 20)
    assert TWENTY_WITH_15_TIES * 2**20 == 34588


@pytest.mark.soak
def test_20_patients_with_15_ties_by_enumeration():
    assert enumerated(TIES[20]) == TWENTY_WITH_15_TIES


def test_smallest_p_of_n_differences_is_two_in_two_to_the_n():
    for count in range(1, 9):
        result = signed_rank_test(np.linspace(0.1, 0.9, count))
        assert result == (2 / 2**count, count)
        assert (result.p < 0.05) == (count >= MIN_DIFFERENCES)


def test_zero_differences_are_left_out():
    five = [0.1, 0.3, 0.2, 0.5, 0.4]
    with_zeros = signed_rank_test(np.array([0.0] * 15 + five + [np.nan]))
    assert with_zeros == signed_rank_test(np.array(five)) == (0.0625, 5)
    assert with_zeros.p == stats.wilcoxon(five, method="exact").pvalue
    assert signed_rank_test(np.array([0.0, 0.0, np.nan])) == (None, 0)
    assert signed_rank_test(np.array([])) == (None, 0)


def test_rounding_errors_neither_break_ties_nor_make_differences():
    # 0.9 - 0.8, 0.8 - 0.7 and 0.3 - 0.2 differ in the last bits.
    computed = np.array([0.9 - 0.8, 0.8 - 0.7, 0.3 - 0.2, 0.1 - 0.2, 0.1 + 0.2 - 0.3])
    assert signed_rank_test(computed) == signed_rank_test(np.array([0.1, 0.1, 0.1, -0.1]))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_it_counts_the_signs(differences):
    nonzero = [value for value in differences if value]
    result = signed_rank_test(np.array(differences, float))
    assert result.differing == len(nonzero)
    if nonzero:
        ranks = stats.rankdata(np.abs(nonzero))
        distances = [
            abs(np.dot(signs, ranks)) for signs in itertools.product((-1, 1), repeat=len(nonzero))
        ]
        observed = abs(np.dot(np.sign(nonzero), ranks))
        assert result.p == pytest.approx(np.mean(np.array(distances) >= observed - 1e-9))


def test_the_normal_approximation_takes_over_smoothly():
    values = np.random.default_rng(4).normal(0.12, 1, 201).round(1)
    values[values == 0] = 0.1
    exact, approximate = (signed_rank_test(values[:count]) for count in (200, 201))
    assert exact.p == pytest.approx(
        stats.wilcoxon(values[:200], method="asymptotic").pvalue, rel=0.03
    )
    assert approximate.p == stats.wilcoxon(values, method="asymptotic").pvalue
