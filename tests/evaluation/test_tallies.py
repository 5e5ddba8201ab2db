"""Totals over cases; expected values are computed by hand."""

from brats_tfrecord.evaluation import case_results, tallies


def row(case_id="a", **fields):
    return case_results.CaseResult(case_id, case_id, None, "unseen", "unlabelled", **fields)


def test_confusion_is_summed_and_normalised_by_row():
    first = [[90, 0, 0, 10], [1, 3, 0, 0], [0, 0, 0, 0], [0, 2, 0, 2]]
    second = [[50, 0, 0, 0], [0, 0, 0, 4], [0, 0, 0, 0], [0, 0, 0, 0]]
    confusion = tallies.confusion([row(confusion=first), row(confusion=second), row()])
    assert confusion.names == ("background", "NCR/NET", "ED", "ET") and confusion.cases == 2
    assert confusion.counts[0] == [140, 0, 0, 10]
    assert confusion.shares[0] == [None] * 4, "air would dominate"
    assert confusion.shares[1] == [0.125, 0.375, 0, 0.5]
    assert confusion.shares[2] == [None] * 4, "no case has edema"
    assert confusion.precision == [None, 0.6, None, 0.125]
    assert tallies.confusion([row()]) is None


def test_crop_losses_name_the_worst_case_and_count_affected_ones():
    rows = [
        row("a", crop={"brain": 0.02, "tumour": 0.0}),
        row("b", crop={"brain": 0.08, "tumour": 0.0}),
        row("c", crop={"brain": 0.04, "tumour": None}),
        row("d"),
    ]
    brain, tumour = tallies.crop_losses(rows)
    assert brain == tallies.CropLoss("brain", 3, 3, 0.04, 0.08, "b")
    assert tumour == tallies.CropLoss("tumour", 2, 0, 0.0, 0.0, None)
    assert tallies.crop_losses([row("d")]) == []


def test_stage_times_are_in_order_of_appearance_with_their_shares():
    rows = [row(stages={"read": 1.0, "predict": 4.0}), row(stages={"read": 3.0}), row()]
    assert tallies.stage_times(rows) == [
        tallies.StageTime("read", 2, 2.0, 3.0, 0.5),
        tallies.StageTime("predict", 1, 4.0, 4.0, 0.5),
    ]
    assert tallies.stage_times([row()]) == []


def compared(case_id, missing, dice):
    values = {region: {"dice": dice[region]} for region in ("WT", "TC", "ET")}
    return case_results.CaseResult(
        case_id, case_id, None, "unseen", "ok", metrics=values, missing=missing
    )


def test_dice_is_averaged_over_the_cases_that_lack_the_same():
    rows = [
        compared("a", ("t2",), {"WT": 0.5, "TC": 0.25, "ET": None}),
        compared("b", (), {"WT": 0.75, "TC": 0.5, "ET": 1.0}),
        compared("c", ("t2",), {"WT": 1.0, "TC": 0.75, "ET": None}),
        compared("d", ("flair", "t2"), {"WT": 0.25, "TC": 0.0, "ET": 0.5}),
    ]
    assert tallies.dice_by_missing(rows) == [
        tallies.MissingGroup((), 1, {"WT": 0.75, "TC": 0.5, "ET": 1.0}),
        tallies.MissingGroup(("t2",), 2, {"WT": 0.75, "TC": 0.5, "ET": None}),
        tallies.MissingGroup(("flair", "t2"), 1, {"WT": 0.25, "TC": 0.0, "ET": 0.5}),
    ]
    assert tallies.dice_by_missing(rows[1:2]) == [] == tallies.dice_by_missing([])
