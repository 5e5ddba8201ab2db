"""Sums over cases, by hand."""

from brats_tfrecord.evaluation import case_results, tallies


def row(case_id="a", **fields):
    return case_results.CaseResult(case_id, case_id, None, "unseen", "unlabelled", **fields)


def test_confusion_is_summed_and_normalised_by_row():
    one = [[90, 0, 0, 10], [1, 3, 0, 0], [0, 0, 0, 0], [0, 2, 0, 2]]
    two = [[50, 0, 0, 0], [0, 0, 0, 4], [0, 0, 0, 0], [0, 0, 0, 0]]
    found = tallies.confusion([row(confusion=one), row(confusion=two), row()])
    assert found.names == ("background", "NCR/NET", "ED", "ET") and found.cases == 2
    assert found.counts[0] == [140, 0, 0, 10]
    assert found.shares[0] == [None] * 4, "air would drown the rest"
    assert found.shares[1] == [0.125, 0.375, 0, 0.5]
    assert found.shares[2] == [None] * 4, "no case has edema"
    assert found.right == [None, 0.6, None, 0.125]
    assert tallies.confusion([row()]) is None


def test_crop_losses_tell_the_worst_case_and_how_many_are_touched():
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


def test_stage_times_keep_their_order_and_share_the_whole():
    rows = [row(stages={"read": 1.0, "predict": 4.0}), row(stages={"read": 3.0}), row()]
    assert tallies.stage_times(rows) == [
        tallies.StageTime("read", 2, 2.0, 3.0, 0.5),
        tallies.StageTime("predict", 1, 4.0, 4.0, 0.5),
    ]
    assert tallies.stage_times([row()]) == []
