"""Agreement of volumes over patients; expected values are computed by hand."""

import numpy as np
import pytest
from scipy import stats

from brats_tfrecord.evaluation import case_results
from brats_tfrecord.evaluation.volume_agreement import agreement


def measured(*cases):
    """Results from (patient, true mL, predicted mL)."""
    return [
        case_results.CaseResult(
            f"{patient}-{k}",
            patient,
            None,
            "unseen",
            "ok",
            metrics={},
            truth_ml={"WT": truth},
            volumes_ml={"WT": predicted},
        )
        for k, (patient, truth, predicted) in enumerate(cases)
    ]


FIVE = measured(("a", 10, 11), ("b", 20, 22), ("c", 30, 33), ("d", 40, 44), ("e", 50, 55))


def test_bias_and_limits_of_five_patients():
    result = agreement(FIVE, "WT")
    assert result.differences == [1, 2, 3, 4, 5] and result.means[1] == 21
    assert result.patients == ["a", "b", "c", "d", "e"]
    assert (result.truth, result.predicted, result.bias) == (30, 33, 3)
    # The sample variance of 1 ... 5 is 2.5, and the 97.5th percentile of Student's t with four
    # degrees of freedom 2.776.
    assert result.high == pytest.approx(3 + 1.96 * 2.5**0.5, abs=1e-3)
    assert result.low == pytest.approx(3 - 1.96 * 2.5**0.5, abs=1e-3)
    half_width = 2.776 * (2.5 / 5) ** 0.5
    assert result.bias_interval == pytest.approx((3 - half_width, 3 + half_width), abs=1e-3)


def test_intervals_of_the_limits_are_exact_for_one_case_per_patient():
    """bias + 1.96 SD is the 97.5th percentile; its exact interval is that of a tolerance limit."""
    result = agreement(FIVE, "WT")
    z, sd = stats.norm.ppf(0.975), 2.5**0.5
    inner, outer = stats.nct.ppf((0.025, 0.975), 4, z * 5**0.5) / 5**0.5
    assert (inner, outer) == pytest.approx((0.923, 5.975), abs=1e-3)
    assert result.high_interval == pytest.approx((3 + inner * sd, 3 + outer * sd))
    assert result.low_interval == pytest.approx((3 - outer * sd, 3 - inner * sd))


def test_cases_of_a_patient_are_one_unit():
    """Patients 1 ... 5 with two cases each, 1 mL below and above the patient's mean difference."""
    cases = [(f"p{k}", 10.0, 10.0 + k + sign) for k in range(1, 6) for sign in (-1, 1)]
    result = agreement(measured(*cases), "WT")
    assert result.bias == 3 and result.predicted == 13
    # Within patients: a sum of squares of 10 over 5 degrees of freedom, variance 2. Between:
    # the variance 2.5 of the means, less 2 / 2 that two cases do not average out: 1.5.
    assert result.high == pytest.approx(3 + 1.96 * 3.5**0.5, abs=1e-3)
    # The standard error of the bias counts patients: 2.5 / 5, not the variance of 10 cases / 10.
    assert result.bias_interval[1] == pytest.approx(3 + 2.776 * 0.5**0.5, abs=1e-3)
    low, high = result.high_interval
    assert low < result.high < high


def test_repeating_every_case_changes_nothing():
    """A copy of a case is no new information; only the intervals' form depends on the variance."""
    once = agreement(FIVE, "WT")
    twice = agreement(FIVE + FIVE, "WT")
    assert len(twice.differences) == 10
    for name in ("truth", "predicted", "bias", "low", "high"):
        assert getattr(twice, name) == pytest.approx(getattr(once, name)), name
    for name in ("bias_interval", "low_interval", "high_interval"):
        assert getattr(twice, name) == pytest.approx(getattr(once, name)), name


def test_a_patient_with_many_cases_weighs_as_one():
    cases = [("a", 10, 20)] * 8 + [(patient, 10, 10) for patient in "bcde"]
    result = agreement(measured(*cases), "WT")
    assert result.bias == 2 and result.predicted == 12


@pytest.mark.parametrize("count, has_bias", [(0, False), (1, False), (2, True), (4, True)])
def test_few_patients_have_no_limits_and_one_has_no_bias(count, has_bias):
    cases = [(str(k), 10, 12) for k in range(count)] * 3
    result = agreement(measured(*cases), "WT")
    assert (result.bias is not None) == (result.bias_interval is not None) == has_bias
    assert result.low is None and result.high is None and result.low_interval is None
    assert (result.truth is not None) == (count > 0)


def test_equal_differences_have_limits_at_the_bias():
    result = agreement(measured(*[(str(k), 10, 12) for k in range(6)]), "WT")
    assert (result.low, result.bias, result.high) == (2, 2, 2)
    assert result.low_interval == result.bias_interval == result.high_interval == (2, 2)
    # All variance within patients: the patients' means are equal.
    within = agreement(
        measured(*[(str(k), 10, 12 + sign) for k in range(6) for sign in (-1, 1)]), "WT"
    )
    assert within.high == pytest.approx(2 + 1.96 * 2**0.5, abs=1e-3)
    assert within.high_interval[0] < within.high < within.high_interval[1]


@pytest.mark.slow
@pytest.mark.parametrize("counts, between, within", [((1,), 1.0, 0.0), ((1, 2, 3), 0.8, 0.6)])
def test_intervals_cover_the_true_limits_in_95_of_100_studies(counts, between, within):
    """Simulated studies of nine patients whose differences have mean 0 and variance 1."""
    rng = np.random.default_rng(7)
    patients = np.repeat(np.arange(9), np.resize(counts, 9))
    covered, studies = 0, 1500
    for _ in range(studies):
        noise = rng.normal(size=len(patients)) * within
        differences = rng.normal(size=9)[patients] * between + noise
        cases = [(str(p), 50.0, 50.0 + d) for p, d in zip(patients, differences)]
        low, high = agreement(measured(*cases), "WT").high_interval
        covered += low <= 1.96 <= high
    assert covered / studies == pytest.approx(0.95, abs=0.018)
