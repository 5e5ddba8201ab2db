"""Agreement of volumes, by hand."""

import pytest

from brats_tfrecord.evaluation import case_results, volumes


def rows(*pairs):
    figure = {"WT": {}, "TC": {}, "ET": {}}
    return [
        case_results.CaseResult(
            f"case {k}",
            f"{k}",
            None,
            "unseen",
            "ok",
            metrics=figure,
            truth_ml={"WT": truth},
            volumes_ml={"WT": predicted},
        )
        for k, (truth, predicted) in enumerate(pairs)
    ]


def test_bias_and_limits_of_five_cases():
    found = volumes.agreement(rows((10, 11), (20, 22), (30, 33), (40, 44), (50, 55)), "WT")
    assert found.differences == [1, 2, 3, 4, 5] and found.means[1] == 21
    assert (found.truth, found.predicted, found.bias) == (30, 33, 3)
    # The sample variance of 1 ... 5 is 2.5.
    assert found.high == pytest.approx(3 + 1.96 * 2.5**0.5)
    assert found.low == pytest.approx(3 - 1.96 * 2.5**0.5)


@pytest.mark.parametrize("count, has_bias", [(0, False), (1, False), (2, True), (4, True)])
def test_few_cases_say_less(count, has_bias):
    found = volumes.agreement(rows(*[(10, 12)] * count), "WT")
    assert (found.bias is not None) == has_bias
    assert found.low is None and found.high is None
    assert (found.truth is not None) == (count > 0)
