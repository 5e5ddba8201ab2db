"""Rows, their summary, and the CSV and JSON files made of them."""

import csv
import json
import statistics

import numpy as np
import pytest

from brats_tfrecord import metrics
from brats_tfrecord.evaluation import case_results, intervals
from brats_tfrecord.report import tables

RULES = metrics.RULE_SETS["brats2020"]
STRUCTURES = metrics.structures(4)


def result(case_id, use="unseen", dice=0.8, sensitivity=0.9, **changes):
    figures = {
        **dict.fromkeys(RULES.metrics),
        "dice": dice,
        "hd95": 10 * (1 - dice),
        "sensitivity": sensitivity,
        "specificity": 0.99,
    }
    fields = {
        "patient_id": case_id,
        "grade": "HGG",
        "status": "ok",
        "metrics": {**dict.fromkeys(STRUCTURES, figures), "ET": figures | {"dice": dice / 2}},
        "volumes_ml": {"NCR/NET": 1.5, "ED": 20.25, "ET": 3.0, "WT": 24.75, "TC": 4.5},
        "truth_ml": {"NCR/NET": 1.0, "ED": 20.0, "ET": 3.0, "WT": 24.0, "TC": 4.0},
        "confusion": [[9, 1, 0, 0], [0, 5, 0, 0], [2, 0, 7, 0], [0, 0, 0, 4]],
        "crop": {"brain": 0.04, "tumour": 0.0},
        "stages": {"bias correction": 6.0},
        "seconds": 7.5,
        "post_processing": ("ET to NCR/NET: 34 voxels",),
    }
    return case_results.CaseResult(case_id=case_id, use=use, **(fields | changes))


def failed(case_id, use="unseen"):
    return case_results.CaseResult(
        case_id, case_id, None, use, "failed", "its t1 is empty, copy it"
    )


def unlabelled(case_id):
    return case_results.CaseResult(
        case_id,
        case_id,
        None,
        "unseen",
        "unlabelled",
        volumes_ml={"NCR/NET": 0.0, "ED": 4.0, "ET": 0.5},
        seconds=6.0,
    )


def test_summary_counts_only_compared_cases_of_the_asked_use():
    rows = [
        result("a", dice=0.6),
        result("b", dice=0.9),
        result("c", dice=0.6),
        result("d", use="select", dice=0.1),
        result("e", use="train", dice=1.0),
        failed("f"),
        unlabelled("g"),
    ]
    dice = case_results.summary(rows, RULES)["WT"]["dice"]
    assert dice["mean"] == pytest.approx(0.7) and dice["median"] == pytest.approx(0.6)
    assert dice["sd"] == pytest.approx(statistics.stdev([0.6, 0.9, 0.6])) and dice["n"] == 3
    assert case_results.summary(rows, RULES)["ET"]["dice"]["mean"] == pytest.approx(0.35)
    assert case_results.summary(rows, RULES, use="select")["WT"]["dice"] == {
        "mean": 0.1,
        "median": 0.1,
        "sd": None,
        "low": None,
        "high": None,
        "n": 1,
    }


def test_undefined_figures_do_not_count():
    rows = [result("a", sensitivity=None), result("b", sensitivity=0.5)]
    assert case_results.summary(rows, RULES)["TC"]["sensitivity"] == {
        "mean": 0.5,
        "median": 0.5,
        "sd": None,
        "low": None,
        "high": None,
        "n": 1,
    }
    nobody = {"mean": None, "median": None, "sd": None, "low": None, "high": None, "n": 0}
    assert case_results.summary(rows[:1], RULES)["TC"]["sensitivity"] == nobody
    assert case_results.summary([], RULES)["WT"]["hd95"] == nobody


def test_csv_holds_every_case_with_full_precision(tmp_path):
    name = 'comma, "quote" and Ünïcode'
    rows = [result("a", dice=1 / 3), result(name, sensitivity=None), failed("f"), unlabelled("g")]
    tables.write_csv(tmp_path / "metrics.csv", rows, RULES)
    with open(tmp_path / "metrics.csv", newline="", encoding="utf-8") as stream:
        read = list(csv.DictReader(stream))
    assert [row["case_id"] for row in read] == ["a", name, "f", "g"]
    assert float(read[0]["WT_dice"]) == 1 / 3
    assert read[1]["ET_sensitivity"] == "" and read[1]["ET_specificity"] == "0.99"
    assert (read[2]["status"], read[2]["WT_dice"]) == ("failed", "")
    assert read[2]["reason"] == "its t1 is empty, copy it"
    assert (read[3]["status"], read[3]["WT_dice"], read[3]["ED_ml"]) == ("unlabelled", "", "4.0")
    assert list(read[0])[:6] == ["case_id", "patient_id", "grade", "use", "status", "reason"]
    assert list(read[0])[6:8] == ["WT_dice", "WT_hd95"]
    assert list(read[0])[-16:] == [
        "NCR/NET_ml",
        "ED_ml",
        "ET_ml",
        "WT_ml",
        "TC_ml",
        "NCR/NET_truth_ml",
        "ED_truth_ml",
        "ET_truth_ml",
        "WT_truth_ml",
        "TC_truth_ml",
        "crop_brain_lost",
        "crop_tumour_lost",
        "post_processing",
        "warnings",
        "seconds_bias_correction",
        "seconds",
    ]
    assert (read[0]["WT_ml"], read[0]["WT_truth_ml"], read[0]["crop_brain_lost"]) == (
        "24.75",
        "24.0",
        "0.04",
    )
    assert read[0]["post_processing"] == "ET to NCR/NET: 34 voxels"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_name_or_reason_becomes_a_formula(tmp_path, name):
    rows = [
        case_results.CaseResult(name, name, name, "unseen", "failed", name),
        result("a", dice=0.8),
    ]
    rows[1].metrics["WT"]["volume_error_ml"] = -0.5
    tables.write_csv(tmp_path / "metrics.csv", rows, RULES)
    with open(tmp_path / "metrics.csv", newline="", encoding="utf-8") as stream:
        first, second = csv.DictReader(stream)
    for column in ("case_id", "patient_id", "grade", "reason"):
        assert first[column] == "'" + name.replace("\r", " ")
    assert second["WT_volume_error_ml"] == "-0.5", "numbers stay numbers"


def test_an_interval_is_that_of_the_patients_not_of_the_cases():
    """Two patients, one of them with three equal cases: a resample is one, the other or both."""
    rows = [result("a", dice=0.2)] + [result(f"b-{n}", dice=0.6, patient_id="b") for n in range(3)]
    dice = case_results.summary(rows, RULES)["WT"]["dice"]
    assert dice["mean"] == pytest.approx(0.5)
    assert (dice["low"], dice["high"]) == pytest.approx((0.2, 0.6))
    dice = case_results.summary(rows[1:], RULES)["WT"]["dice"]
    assert dice["low"] is None, "one patient says nothing of others"


def test_an_interval_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(1)
    values, patients = rng.normal(3, 2, 40), [f"p{n % 25}" for n in range(40)]
    means = []
    for _ in range(4000):
        drawn = rng.integers(25, size=25)
        means.append(np.concatenate([values[n::25] for n in drawn]).mean())
    column = np.where(np.arange(40) < 30, values, np.nan)
    found, again, fewer = intervals.bootstrap_means(
        np.stack([values, values, column], axis=1), patients
    )
    assert found == pytest.approx(np.percentile(means, (2.5, 97.5)), abs=0.06)
    assert found == again and found != fewer


def test_memory_of_a_bootstrap_does_not_grow_with_the_patients(monkeypatch):
    values = np.random.default_rng(2).normal(size=(30, 1))
    expected = intervals.bootstrap_means(values, range(30))
    monkeypatch.setattr(intervals, "_CHUNK", 3000)
    assert intervals.bootstrap_means(values, range(30))[0] == pytest.approx(expected[0], abs=0.05)


def test_json_names_the_rules_and_keeps_summary_and_rows(tmp_path):
    rows = [result("a"), result("b", use="train", sensitivity=None), failed("f")]
    header = {"model": "1f3a", "versions": {"x": "1"}}
    tables.write_json(tmp_path / "metrics.json", rows, RULES, header)
    read = json.loads((tmp_path / "metrics.json").read_text())
    assert read["rules"] == "brats2020" and read["header"]["model"] == "1f3a"
    assert read["summary"]["unseen"]["WT"]["dice"]["mean"] == 0.8
    assert read["summary"]["select"]["WT"]["dice"]["n"] == 0
    assert read["rows"][1]["metrics"]["WT"]["sensitivity"] is None
    assert read["rows"][2]["reason"] == "its t1 is empty, copy it"


def test_json_refuses_nan_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        tables.write_json(tmp_path / "metrics.json", [result("a", seconds=float("nan"))], RULES, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"use": "validation"}, "use is 'validation'"),
        ({"status": "fine"}, "status is 'fine'"),
        ({"metrics": None}, "if, and only if"),
        ({"status": "failed"}, "if, and only if"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        result("a", **changes)
