"""The files metrics.csv and metrics.json."""

import csv
import dataclasses
import json

import pytest

from brats_tfrecord import metrics
from brats_tfrecord.evaluation import case_results
from brats_tfrecord.metrics import rano
from brats_tfrecord.report import tables

RULES = metrics.RULE_SETS["brats2020"]
STRUCTURES = metrics.structures(4)


def result(case_id, use="unseen", dice=0.8, sensitivity=0.9, **changes):
    values = {
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
        "metrics": {**dict.fromkeys(STRUCTURES, values), "ET": values | {"dice": dice / 2}},
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


def test_csv_has_every_case_in_full_precision(tmp_path):
    name = 'comma, "quote" and Ünïcode'
    rows = [
        result("a", dice=1 / 3),
        result(name, sensitivity=None, use="train", recognised_by="same scan"),
    ]
    rows += [failed("f"), unlabelled("g")]
    tables.write_csv(tmp_path / "metrics.csv", rows, RULES)
    with open(tmp_path / "metrics.csv", newline="", encoding="utf-8") as stream:
        read = list(csv.DictReader(stream))
    assert [row["case_id"] for row in read] == ["a", name, "f", "g"]
    assert float(read[0]["WT_dice"]) == 1 / 3
    assert read[1]["ET_sensitivity"] == "" and read[1]["ET_specificity"] == "0.99"
    assert (read[2]["status"], read[2]["WT_dice"]) == ("failed", "")
    assert read[2]["reason"] == "its t1 is empty, copy it"
    assert (read[3]["status"], read[3]["WT_dice"], read[3]["ED_ml"]) == ("unlabelled", "", "4.0")
    assert list(read[0])[:5] == ["case_id", "patient_id", "grade", "use", "recognised_by"]
    assert [row["recognised_by"] for row in read[:2]] == ["", "same scan"]
    assert list(read[0])[7:9] == ["WT_dice", "WT_hd95"]
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


def test_csv_has_the_diameters_of_prediction_and_truth(tmp_path):
    burden = dataclasses.asdict(rano.TumourBurden(2, 1, 21.5, 12.0, 258.0))
    none = dataclasses.asdict(rano.TumourBurden(0, 0, None, None, 0.0))
    rows = [result("a", rano=burden, truth_rano=none), failed("f")]
    tables.write_csv(tmp_path / "metrics.csv", rows, RULES)
    with open(tmp_path / "metrics.csv", newline="", encoding="utf-8") as stream:
        first, second = csv.DictReader(stream)
    names = ("lesions", "measurable", "longest_mm", "across_mm", "sum_mm2")
    assert [first[f"rano_{name}"] for name in names] == ["2", "1", "21.5", "12.0", "258.0"]
    assert [first[f"rano_truth_{name}"] for name in names] == ["0", "0", "", "", "0.0"]
    assert {second[f"rano_{name}"] for name in names} == {""}


@pytest.mark.parametrize("name", ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "\r=1"])
def test_csv_escapes_formulas_in_text(tmp_path, name):
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


def test_json_contains_rules_header_summary_and_rows(tmp_path):
    rows = [result("a"), result("b", use="train", sensitivity=None), failed("f")]
    header = {"model": "1f3a", "versions": {"x": "1"}}
    tables.write_json(tmp_path / "metrics.json", rows, RULES, header)
    read = json.loads((tmp_path / "metrics.json").read_text())
    assert read["rules"] == "brats2020" and read["header"]["model"] == "1f3a"
    assert read["summary"]["unseen"]["WT"]["dice"]["mean"] == 0.8
    assert read["summary"]["select"]["WT"]["dice"]["n"] == 0
    assert read["rows"][1]["metrics"]["WT"]["sensitivity"] is None
    assert read["rows"][2]["reason"] == "its t1 is empty, copy it"


def test_json_refuses_nan_and_writes_no_file(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        tables.write_json(tmp_path / "metrics.json", [result("a", seconds=float("nan"))], RULES, {})
    assert not list(tmp_path.iterdir())
