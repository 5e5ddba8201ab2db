"""The summary that an evaluation prints."""

from dataclasses import replace

import pytest

from brats_tfrecord import metrics, spec
from brats_tfrecord.evaluation import case_results, compare
from brats_tfrecord.evaluation.intervals import FEW_PATIENTS_NOTE
from brats_tfrecord.report import publish

RULES = metrics.RULE_SETS["nnunet"]


def scored(case_id, value, use="unseen"):
    values = {name: dict.fromkeys(RULES.metrics, value) for name in metrics.structures(4)}
    return case_results.CaseResult(case_id, case_id, None, use, "ok", metrics=values)


def without_metrics(case_id, status):
    return case_results.CaseResult(case_id, case_id, None, "unseen", status)


def test_headline_names_use_rules_and_intervals():
    assert publish.headline_lines(
        [scored("a", 0.25), scored("b", 0.75)], RULES, [("threshold", {"WT": 0.5})]
    ) == [
        "2 unseen cases, nnunet rules",
        "  mean [95 % confidence interval over 2 patients]",
        *(
            f"  {region}  Dice 0.500 [0.250, 0.750]*   HD95 (mm) 0.50 [0.25, 0.75]*"
            for region in ("WT", "TC", "ET")
        ),
        f"  {FEW_PATIENTS_NOTE}",
        "  threshold: WT Dice 0.500",
    ]


def test_intervals_of_ten_patients_need_no_note():
    lines = publish.headline_lines([scored(str(n), n / 10) for n in range(10)], RULES)
    assert "*" not in "".join(lines)
    assert "*" in "".join(publish.headline_lines([scored(str(n), n / 9) for n in range(9)], RULES))


def test_headline_warns_if_no_case_is_unseen():
    first, *_ = publish.headline_lines([scored("a", 0.25, "train")], RULES)
    assert first == "1 train case, nnunet rules  (no case is unseen: not a measure of the model)"


def test_cases_recognised_under_another_id_are_named_first():
    rows = [
        replace(scored("a", 0.25), use="train", recognised_by="same scan"),
        replace(scored("b-001", 0.25), use="select", recognised_by="patient"),
        replace(scored("c", 0.25), use="train", recognised_by="case id"),
    ]
    assert publish.headline_lines(rows, RULES)[:2] == [
        "a is not unseen: the same scan, under another id, trained the model.",
        "b-001 is not unseen: another scan of its patient selected the model.",
    ]


def test_headline_counts_cases_without_metrics():
    failed, unlabelled = without_metrics("c", "failed"), without_metrics("d", "unlabelled")
    assert publish.headline_lines([scored("a", 0.25), failed, unlabelled], RULES)[:5] == [
        "1 of 3 cases failed; the reasons are printed above and listed in the report.",
        "1 case without a mask: segmented, not part of any mean below.",
        "1 unseen case, nnunet rules",
        "  mean",
        "  WT  Dice 0.250   HD95 (mm) 0.25",
    ]
    assert publish.headline_lines([failed], RULES) == [
        "1 of 1 case failed; the reasons are printed above and listed in the report."
    ]
    assert publish.headline_lines([unlabelled], RULES) == [
        "No case has a mask to compare with: segmentations, no metrics."
    ]


def test_comparison_lines_have_the_sign_of_here_minus_there():
    entry = {"difference": -0.025, "low": -0.1, "high": 0.05, "p": 0.21} | {
        "n": 12,
        "patients": 12,
        "differing": 8,
    }
    few = entry | {"p": None, "patients": 9, "differing": 5}
    comparison = compare.Comparison(
        other={},
        use="unseen",
        cases=2,
        met_there=1,
        only_here=0,
        only_there=0,
        table={region: {"dice": entry, "hd95": few} for region in spec.REGIONS},
        pairs={},
    )
    first, second, *regions, note = publish.comparison_lines(comparison, "old.json")
    assert first.startswith("Against old.json, the same 2 unseen cases: mean difference, here - ")
    assert second == "  1 of them trained or selected the other model, which favours it"
    assert regions[0] == (
        "  WT  Dice -0.025 [-0.100, +0.050], p 0.21   HD95 (mm) -0.03 [-0.10, +0.05]*, "
        "no p (5 of 9 patients differ)"
    )
    assert note == f"  {FEW_PATIENTS_NOTE}"
    assert len(regions) == 3


@pytest.mark.parametrize("path", ["old.json", "runs/1/metrics.json"])
def test_a_comparison_without_common_cases_is_one_line(path):
    assert publish.comparison_lines(None, path) == [
        f"No case of the headline can be compared with {path}."
    ]
