"""Rows, their summary, and the CSV and JSON files made of them."""

import csv
import json
import statistics

import pytest

from brats_tfrecord.report import tables


def result(case_id, use="unseen", dice=0.8, sensitivity=0.9, **changes):
    figures = {"dice": dice, "hd95": 10 * (1 - dice), "sensitivity": sensitivity,
               "specificity": 0.99}
    fields = {
        "patient_id": case_id, "grade": "HGG", "status": "ok",
        "metrics": {"WT": figures, "TC": figures, "ET": figures | {"dice": dice / 2}},
        "volumes_ml": {"NCR/NET": 1.5, "ED": 20.25, "ET": 3.0}, "seconds": 7.5,
    }
    return tables.CaseResult(case_id=case_id, use=use, **(fields | changes))


def failed(case_id, use="unseen"):
    return tables.CaseResult(case_id, case_id, None, use, "failed", "its t1 is empty, copy it")


def unlabelled(case_id):
    return tables.CaseResult(case_id, case_id, None, "unseen", "unlabelled",
                             volumes_ml={"NCR/NET": 0.0, "ED": 4.0, "ET": 0.5}, seconds=6.0)


def test_summary_counts_only_compared_cases_of_the_asked_use():
    rows = [result("a", dice=0.6), result("b", dice=0.9), result("c", dice=0.6),
            result("d", use="select", dice=0.1), result("e", use="train", dice=1.0),
            failed("f"), unlabelled("g")]
    dice = tables.summary(rows)["WT"]["dice"]
    assert dice["mean"] == pytest.approx(0.7) and dice["median"] == pytest.approx(0.6)
    assert dice["sd"] == pytest.approx(statistics.stdev([0.6, 0.9, 0.6])) and dice["n"] == 3
    assert tables.summary(rows)["ET"]["dice"]["mean"] == pytest.approx(0.35)
    assert tables.summary(rows, use="select")["WT"]["dice"] == {
        "mean": 0.1, "median": 0.1, "sd": None, "n": 1}


def test_undefined_figures_do_not_count():
    rows = [result("a", sensitivity=None), result("b", sensitivity=0.5)]
    assert tables.summary(rows)["TC"]["sensitivity"] == {
        "mean": 0.5, "median": 0.5, "sd": None, "n": 1}
    nobody = {"mean": None, "median": None, "sd": None, "n": 0}
    assert tables.summary(rows[:1])["TC"]["sensitivity"] == nobody
    assert tables.summary([])["WT"]["hd95"] == nobody


def test_csv_holds_every_case_with_full_precision(tmp_path):
    name = 'comma, "quote" and Ünïcode'
    rows = [result("a", dice=1 / 3), result(name, sensitivity=None), failed("f"), unlabelled("g")]
    tables.write_csv(tmp_path / "metrics.csv", rows)
    with open(tmp_path / "metrics.csv", newline="", encoding="utf-8") as stream:
        read = list(csv.DictReader(stream))
    assert [row["case_id"] for row in read] == ["a", name, "f", "g"]
    assert float(read[0]["WT_dice"]) == 1 / 3
    assert read[1]["ET_sensitivity"] == "" and read[1]["ET_specificity"] == "0.99"
    assert (read[2]["status"], read[2]["WT_dice"]) == ("failed", "")
    assert read[2]["reason"] == "its t1 is empty, copy it"
    assert (read[3]["status"], read[3]["WT_dice"], read[3]["ED_ml"]) == ("unlabelled", "", "4.0")
    assert list(read[0])[:6] == ["case_id", "patient_id", "grade", "use", "status", "reason"]
    assert list(read[0])[-4:] == ["NCR/NET_ml", "ED_ml", "ET_ml", "seconds"]


def test_json_names_the_rules_and_keeps_summary_and_rows(tmp_path):
    rows = [result("a"), result("b", use="train", sensitivity=None), failed("f")]
    tables.write_json(tmp_path / "metrics.json", rows, {"model": "1f3a", "versions": {"x": "1"}})
    read = json.loads((tmp_path / "metrics.json").read_text())
    assert read["rules"] == "brats2020" and read["header"]["model"] == "1f3a"
    assert read["summary"]["unseen"]["WT"]["dice"]["mean"] == 0.8
    assert read["summary"]["select"]["WT"]["dice"]["n"] == 0
    assert read["rows"][1]["metrics"]["WT"]["sensitivity"] is None
    assert read["rows"][2]["reason"] == "its t1 is empty, copy it"


def test_json_refuses_nan_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        tables.write_json(tmp_path / "metrics.json", [result("a", dice=float("nan"))], {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes, message", [
    ({"use": "validation"}, "use is 'validation'"),
    ({"status": "fine"}, "status is 'fine'"),
    ({"metrics": None}, "if, and only if"),
    ({"status": "failed"}, "if, and only if"),
])
def test_a_row_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        result("a", **changes)
