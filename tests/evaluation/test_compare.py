"""Paired comparison of two evaluations; expected values are computed by hand."""

import json

import pytest
from scipy import stats

from brats_tfrecord import metrics
from brats_tfrecord.errors import InputError
from brats_tfrecord.evaluation import case_results, compare
from brats_tfrecord.report import tables

RULES = metrics.RULE_SETS["brats2020"]


def result(case_id, dice, use="unseen", **changes):
    values = {
        structure: dict.fromkeys(RULES.metrics) | {"dice": dice, "hd95": 10 * (1 - dice)}
        for structure in metrics.structures(4)
    }
    return case_results.CaseResult(
        **{
            "case_id": case_id,
            "patient_id": case_id,
            "grade": None,
            "use": use,
            "status": "ok",
            "metrics": values,
        }
        | changes
    )


def written(path, rows, rule_set=RULES):
    tables.write_json(path, rows, rule_set, {"model_sha256": "0123"})
    return path


@pytest.fixture
def other(tmp_path):
    """Function (rows) -> `compare.OtherEvaluation`, read from a metrics.json."""

    def read(rows):
        path = written(tmp_path / "metrics.json", rows)
        return compare.read(path, RULES, [row.case_id for row in rows])

    return read


def test_differences_are_paired_case_by_case(other):
    here = [result("a", 0.9), result("b", 0.7), result("c", 0.2), result("t", 0.1, use="train")]
    there = [result("b", 0.4), result("a", 0.8), result("d", 1.0)]
    comparison = compare.compare(here, other(there), RULES)
    assert (comparison.cases, comparison.use, comparison.only_here, comparison.only_there) == (
        2,
        "unseen",
        1,
        1,
    )
    assert comparison.other == {"model_sha256": "0123"}
    assert comparison.pairs["WT"] == [("a", 0.9, 0.8), ("b", 0.7, 0.4)]
    dice = comparison.table["WT"]["dice"]
    assert (dice["here"], dice["there"], dice["difference"]) == pytest.approx((0.8, 0.6, 0.2))
    assert (dice["low"], dice["high"]) == pytest.approx((0.1, 0.3))
    assert dice["n"] == 2 and dice["p"] is None, "two pairs are too few for a test"
    assert (dice["patients"], dice["differing"]) == (2, 2)
    assert comparison.table["ET"]["hd95"]["difference"] == pytest.approx(-2)
    assert comparison.table["ED"]["assd"] == {
        "here": None,
        "there": None,
        "difference": None,
        "low": None,
        "high": None,
        "p": None,
        "differing": 0,
        "patients": 0,
        "n": 0,
    }


def test_p_value_is_the_signed_rank_test_over_patients(other):
    gains = [0.1, -0.02, 0.05, 0.2, 0.03, 0.08, 0.07]
    there = [result(f"p{n}-000", 0.5, patient_id=f"p{n}") for n in range(7)]
    here = [result(f"p{n}-000", 0.5 + gain, patient_id=f"p{n}") for n, gain in enumerate(gains)]
    dice = compare.compare(here, other(there), RULES).table["TC"]["dice"]
    assert dice["p"] == pytest.approx(stats.wilcoxon(gains).pvalue) and dice["p"] < 0.05
    again = [result(f"p{n}-001", 0.5, patient_id=f"p{n}") for n in range(7)]
    twice = compare.compare(
        here
        + [result(f"p{n}-001", 0.5 + gain, patient_id=f"p{n}") for n, gain in enumerate(gains)],
        other(there + again),
        RULES,
    ).table["TC"]["dice"]
    assert twice["p"] == pytest.approx(dice["p"]), "cases are averaged by patient"
    assert (twice["low"], twice["high"]) == pytest.approx((dice["low"], dice["high"]))
    assert (twice["n"], twice["patients"], twice["differing"]) == (14, 7, 7)


@pytest.mark.parametrize("equal, differing, tested", [(15, 5, False), (0, 5, False), (14, 6, True)])
def test_a_test_needs_six_patients_that_differ(other, equal, differing, tested):
    """Five of 20 patients that differ are as few as five of five: the smallest p is 0.0625."""
    count = equal + differing
    there = [result(f"p{n}", 0.5) for n in range(count)]
    here = [result(f"p{n}", 0.5 if n < equal else 0.51 + n / 100) for n in range(count)]
    dice = compare.compare(here, other(there), RULES).table["WT"]["dice"]
    assert (dice["patients"], dice["differing"]) == (count, differing)
    assert dice["p"] == (stats.wilcoxon(range(1, 7)).pvalue if tested else None)
    assert dice["low"] > 0, "the bootstrap alone would call it better"


def test_equal_evaluations_have_zero_differences(other):
    rows = [result(str(n), n / 10) for n in range(8)]
    dice = compare.compare(rows, other(rows), RULES).table["WT"]["dice"]
    assert (dice["difference"], dice["low"], dice["high"], dice["p"]) == (0, 0, 0, None)


def test_a_metric_counts_where_both_evaluations_have_it(other):
    without = result("b", 0.4)
    without.metrics["WT"]["dice"] = None
    there = other([result("a", 0.8), without])
    del there.rows["b"]["metrics"]["TC"]["hd95"]  # a file of a version without this metric
    comparison = compare.compare([result("a", 0.9), result("b", 0.7)], there, RULES)
    assert comparison.table["WT"]["dice"]["n"] == comparison.table["TC"]["hd95"]["n"] == 1
    assert comparison.table["WT"]["dice"]["here"] == 0.9
    assert comparison.pairs["WT"] == [("a", 0.9, 0.8)]


def test_cases_used_by_the_other_model_are_counted(other):
    comparison = compare.compare(
        [result("a", 0.9), result("b", 0.75)],
        other([result("a", 0.8, use="train"), result("b", 0.8)]),
        RULES,
    )
    assert comparison.met_there == 1


def test_no_common_case_gives_no_comparison(other):
    assert compare.compare([result("z", 0.9)], other([result("a", 0.8)]), RULES) is None


@pytest.mark.parametrize(
    "content, message",
    [
        (None, r"cannot be read \(No such file"),
        ("no json", "is not a metrics.json of evaluate.py"),
        ("[]", "is not a metrics.json of evaluate.py"),
        (
            '{"rules": "brats2020", "header": {}, "rows": [{"case_id": "a"}]}',
            "is not a metrics.json",
        ),
        (
            '{"rules": "brats2020", "header": {}, "rows": '
            '[{"case_id": "a", "use": "train", "metrics": {"WT": {"dice": "high"}}}]}',
            "WT dice is 'high'",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "metrics.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=f"--compare={path}: .*{message}") as caught:
        compare.read(path, RULES, ["a"])
    assert "\n" not in str(caught.value)


def test_other_rules_and_other_cases_are_refused(tmp_path):
    path = written(tmp_path / "metrics.json", [result("a", 0.8)])
    with pytest.raises(
        InputError, match="with --rules=brats2020, this evaluation uses nnunet; expected"
    ):
        compare.read(path, metrics.RULE_SETS["nnunet"], ["a"])
    with pytest.raises(InputError, match="none of its 1 cases with metrics is among the 2"):
        compare.read(path, RULES, ["b", "c"])
    stored = json.loads(path.read_text())
    assert stored.pop("hd95") == "larger directed percentile, surface voxels"
    path.write_text(json.dumps(stored))  # as versions wrote it whose HD95 was pooled
    with pytest.raises(InputError, match=r"HD95 is of another definition \(not stated\) than here"):
        compare.read(path, RULES, ["a"])
    failed = case_results.CaseResult("a", "a", None, "unseen", "failed", "x")
    path.write_text(json.dumps({"rules": "brats2020", "header": {}, "rows": [{**vars(failed)}]}))
    with pytest.raises(InputError, match="none of its 0 cases"):
        compare.read(path, RULES, ["a"])
