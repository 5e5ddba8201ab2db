"""Charts, judged by their pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from brats_tfrecord import spec
from brats_tfrecord.evaluation import case_results
from brats_tfrecord.report import charts

METRICS = ("dice", "hd95", "sensitivity")


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def row(dice, hd95, truth=10.0, predicted=12.0):
    figure = {"dice": dice, "hd95": hd95, "lesion_dice": dice, "lesion_hd95": hd95}
    return case_results.CaseResult(
        "a",
        "a",
        None,
        "unseen",
        "ok",
        metrics=dict.fromkeys(spec.REGIONS, figure),
        truth_ml=dict.fromkeys(spec.REGIONS, truth),
        volumes_ml=dict.fromkeys(spec.REGIONS, predicted),
    )


def has_every_region(png):
    picture = pixels(png)
    return all(
        (
            np.abs(picture - [int(colour[place : place + 2], 16) for place in (1, 3, 5)]).max(
                axis=2
            )
            < 8
        ).any()
        for colour in spec.REGION_COLOURS.values()
    )


@pytest.mark.parametrize(
    "rows",
    [[row(0.5, 3.0), row(None, None)], [row(0.1 * k, 373.12866 / (k + 1)) for k in range(9)]],
    ids=["one", "nine"],
)
def test_distribution_shows_the_colour_of_every_region(rows):
    assert has_every_region(charts.distribution_figure(rows, METRICS))


def test_lesions_have_axes_of_their_own():
    plain, lesions = (
        pixels(charts.distribution_figure([row(0.5, 3.0)], names))
        for names in (METRICS, (*METRICS, "lesion_dice", "lesion_hd95"))
    )
    assert lesions.shape[0] == 2 * plain.shape[0]


def test_a_figure_that_no_case_has_leaves_empty_axes():
    assert charts.distribution_figure([row(None, None)], METRICS).startswith(b"\x89PNG")


@pytest.mark.parametrize("count", [1, 2])
def test_volumes_are_drawn_from_one_case_on(count):
    assert has_every_region(
        charts.volume_figure([row(0.5, 3.0, 10.0 * k, 10.5 * k) for k in range(count)])
    )


def test_limits_of_agreement_are_drawn_where_they_lie():
    """Dashed lines across all axes: more rows of pixels are mostly black than without them."""
    few, enough = (
        pixels(charts.volume_figure([row(0.5, 3.0, 10.0, 10.0 + k % 3 * 4) for k in range(count)]))
        for count in (4, 6)
    )
    long_rows = [((picture.max(axis=2) < 60).sum(axis=1) > 500).sum() for picture in (few, enough)]
    assert long_rows[1] > long_rows[0]


def test_pairs_show_both_models():
    pairs = {region: [("a", 0.9, 0.5), ("b", 0.7, 0.8)] for region in spec.REGIONS}
    assert has_every_region(charts.pairs_figure(pairs))
    assert charts.pairs_figure({"WT": pairs["WT"], "TC": [], "ET": []}).startswith(b"\x89PNG")


def test_nothing_to_draw_is_none():
    unlabelled = case_results.CaseResult("a", "a", None, "unseen", "unlabelled")
    assert charts.distribution_figure([unlabelled], METRICS) is None
    assert charts.volume_figure([]) is None
    assert charts.pairs_figure({region: [] for region in spec.REGIONS}) is None
