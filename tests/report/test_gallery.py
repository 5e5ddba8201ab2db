"""The selection of cases whose pictures are shown."""

from brats_tfrecord.evaluation import case_results
from brats_tfrecord.report import gallery


def scored(case_id, wt, tc, et, use="unseen"):
    values = {"WT": {"dice": wt}, "TC": {"dice": tc}, "ET": {"dice": et}}
    return case_results.CaseResult(case_id, case_id, None, use, "ok", metrics=values)


ROWS = [
    scored("a", 0.1, 0.9, None),
    scored("b", 0.5, 0.5, 0.7),
    scored("c", 0.9, 0.1, 0.8),
    scored("t", 0.0, 0.0, 0.0, "train"),
    case_results.CaseResult("u", "u", None, "unseen", "unlabelled"),
]


def test_worst_median_and_best_case_of_each_region_are_selected():
    assert [(row.case_id, heading) for row, heading in gallery.select_cases(ROWS, 9)] == [
        ("a", "WT: worst, TC: best"),
        ("c", "TC: worst, WT: best, ET: best"),
        ("b", "ET: worst, WT: median, TC: median"),
        ("u", "unlabelled"),
    ]
    assert [row.case_id for row, _ in gallery.select_cases(ROWS, 2)] == ["a", "c"]
    assert gallery.select_cases(ROWS, 0) == []


def test_pictures_are_those_of_the_drawn_cases_in_order(tmp_path):
    paths = {case_id: tmp_path / f"{case_id}.png" for case_id in "bu"}
    for case_id, path in paths.items():
        path.write_bytes(case_id.encode())
    assert gallery.pictures(ROWS, paths, 9) == [
        gallery.Picture(
            "b",
            "WT: worst, TC: worst, ET: worst",
            "unseen; Dice WT 0.500, TC 0.500, ET 0.700",
            b"b",
        ),
        gallery.Picture("u", "unlabelled", "unlabelled", b"u"),
    ]


def test_an_undefined_dice_is_a_dash_in_the_caption():
    assert gallery.caption(ROWS[0]) == "unseen; Dice WT 0.100, TC 0.900, ET –"
