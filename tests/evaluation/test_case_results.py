"""Results of cases and their summaries."""

import statistics

import numpy as np
import pytest

from brats_tfrecord import metrics
from brats_tfrecord.evaluation import case_results, intervals

RULES = metrics.RULE_SETS["brats2020"]
UNDEFINED = dict.fromkeys(("mean", "median", "sd", "low", "high")) | {"n": 0, "patients": 0}


def result(case_id, use="unseen", dice=0.8, sensitivity=0.9, **changes):
    values = {
        **dict.fromkeys(RULES.metrics),
        "dice": dice,
        "hd95": 10 * (1 - dice),
        "sensitivity": sensitivity,
    }
    fields = {
        "patient_id": case_id,
        "grade": "HGG",
        "status": "ok",
        "metrics": dict.fromkeys(metrics.structures(4), values)
        | {"ET": values | {"dice": dice / 2}},
    }
    return case_results.CaseResult(case_id=case_id, use=use, **(fields | changes))


def without_metrics(case_id, status):
    return case_results.CaseResult(case_id, case_id, None, "unseen", status)


def test_summary_includes_only_compared_cases_of_the_requested_use():
    rows = [
        result("a", dice=0.6),
        result("b", dice=0.9),
        result("c", dice=0.6),
        result("d", use="select", dice=0.1),
        result("e", use="train", dice=1.0),
        without_metrics("f", "failed"),
        without_metrics("g", "unlabelled"),
    ]
    dice = case_results.summary(rows, RULES)["WT"]["dice"]
    assert dice["mean"] == pytest.approx(0.7) and dice["median"] == pytest.approx(0.6)
    assert dice["sd"] == pytest.approx(statistics.stdev([0.6, 0.9, 0.6])) and dice["n"] == 3
    assert case_results.summary(rows, RULES)["ET"]["dice"]["mean"] == pytest.approx(0.35)
    assert case_results.summary(rows, RULES, use="select")["WT"]["dice"] == UNDEFINED | {
        "mean": 0.1,
        "median": 0.1,
        "n": 1,
        "patients": 1,
    }


def test_summary_leaves_out_undefined_values():
    rows = [result("a", sensitivity=None), result("b", sensitivity=0.5)]
    assert case_results.summary(rows, RULES)["TC"]["sensitivity"] == UNDEFINED | {
        "mean": 0.5,
        "median": 0.5,
        "n": 1,
        "patients": 1,
    }
    assert case_results.summary(rows[:1], RULES)["TC"]["sensitivity"] == UNDEFINED
    assert case_results.summary([], RULES)["WT"]["hd95"] == UNDEFINED


def test_headline_uses_the_most_independent_cases():
    rows = [result("t", use="train"), result("s", use="select"), without_metrics("u", "unlabelled")]
    assert case_results.headline_use(rows) == "select"
    assert [row.case_id for row in case_results.headline_rows(rows)] == ["s"]
    assert case_results.headline_use([*rows, result("a")]) == "unseen"
    assert case_results.headline_use(rows[2:]) is None
    assert case_results.headline_rows(rows[2:]) == []


def test_interval_resamples_patients_not_cases():
    """Two patients, one with three equal cases: a resample has one of them, the other or both."""
    rows = [result("a", dice=0.2)] + [result(f"b-{n}", dice=0.6, patient_id="b") for n in range(3)]
    dice = case_results.summary(rows, RULES)["WT"]["dice"]
    assert dice["mean"] == pytest.approx(0.5)
    assert (dice["low"], dice["high"]) == pytest.approx((0.2, 0.6))
    assert (dice["n"], dice["patients"]) == (4, 2)
    dice = case_results.summary(rows[1:], RULES)["WT"]["dice"]
    assert dice["low"] is None, "no interval from a single patient"


def test_interval_agrees_with_a_plain_bootstrap():
    rng = np.random.default_rng(1)
    values, patients = rng.normal(3, 2, 40), [f"p{n % 25}" for n in range(40)]
    means = []
    for _ in range(4000):
        drawn = rng.integers(25, size=25)
        means.append(np.concatenate([values[n::25] for n in drawn]).mean())
    column = np.where(np.arange(40) < 30, values, np.nan)
    first, second, fewer = intervals.bootstrap_means(
        np.stack([values, values, column], axis=1), patients
    )
    assert first == pytest.approx(np.percentile(means, (2.5, 97.5)), abs=0.06)
    assert first == second and first != fewer


def test_patients_are_averaged_over_their_defined_values():
    values = np.array([[0.2, 1.0], [0.6, np.nan], [0.4, np.nan], [0.9, 5.0]])
    means = intervals.patient_means(values, ["b", "a", "b", "c"])
    np.testing.assert_allclose(means, [[0.3, 1], [0.6, np.nan], [0.9, 5]])
    assert intervals.patient_means(np.empty((0, 2)), []).shape == (0, 2)


def test_interval_hardly_depends_on_the_chunk_size(monkeypatch):
    values = np.random.default_rng(2).normal(size=(30, 1))
    expected = intervals.bootstrap_means(values, range(30))
    monkeypatch.setattr(intervals, "_CHUNK", 3000)
    assert intervals.bootstrap_means(values, range(30))[0] == pytest.approx(expected[0], abs=0.05)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"use": "validation"}, "use is 'validation'"),
        ({"status": "fine"}, "status is 'fine'"),
        ({"metrics": None}, "if, and only if"),
        ({"status": "failed"}, "if, and only if"),
    ],
)
def test_contradictory_results_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        result("a", **changes)
