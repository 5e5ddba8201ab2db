"""Charts, checked by the contents of their axes."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from brats_tfrecord import spec
from brats_tfrecord.evaluation import case_results
from brats_tfrecord.report import charts, figures

METRICS = ("dice", "hd95", "sensitivity")
LESION_METRICS = (*METRICS, "lesion_dice", "lesion_hd95")
DASHED = "--"


def scored(metrics_of, truth_ml=None, volumes_ml=None, patient="a"):
    """A case with metrics {region: {metric: value}}."""
    return case_results.CaseResult(
        "a",
        patient,
        None,
        "unseen",
        "ok",
        metrics=metrics_of,
        truth_ml=truth_ml,
        volumes_ml=volumes_ml,
    )


def same_in_all(dice, hd95):
    return scored({region: {"dice": dice, "hd95": hd95} for region in spec.REGIONS})


def measured(truth, predicted, patient="a"):
    """A case with volumes {region: mL}."""
    return scored({region: {"dice": 1.0} for region in spec.REGIONS}, truth, predicted, patient)


def with_differences(differences, patients="abcdefgh"):
    """Cases of these patients with these differences of the volumes of all regions."""
    return [
        measured(
            dict.fromkeys(spec.REGIONS, 10.0),
            dict.fromkeys(spec.REGIONS, 10.0 + difference),
            patient,
        )
        for difference, patient in zip(differences, patients)
    ]


def points(scatter):
    """x and y of the points of a scatter plot, [N, 2]."""
    return np.asarray(scatter.get_offsets())


def heights(axes, style):
    """y of the horizontal lines of one style across the axes, in ascending order."""
    return sorted(
        line.get_ydata()[0]
        for line in axes.lines
        if line.get_linestyle() == style and line.get_transform() == axes.get_yaxis_transform()
    )


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def test_distribution_has_a_point_per_case_in_the_column_of_its_region():
    cases = [
        {"WT": (0.9, 2.0), "TC": (0.8, 4.0), "ET": (0.5, 30.0)},
        {"WT": (0.7, 6.0), "TC": (0.6, 8.0), "ET": (None, None)},
    ]
    figure = charts.distribution_figure(
        [
            scored({region: {"dice": d, "hd95": h} for region, (d, h) in case.items()})
            for case in cases
        ],
        METRICS,
    )
    assert titles(figure) == ["Dice: higher is better", "HD95 (mm): lower is better"]
    expected = {0: {"WT": [0.9, 0.7], "TC": [0.8, 0.6], "ET": [0.5]}}
    expected[1] = {"WT": [2, 6], "TC": [4, 8], "ET": [30]}
    for axes, values in zip(figure.axes, expected.values()):
        labels = dict(
            zip(axes.get_xticks(), [label.get_text() for label in axes.get_xticklabels()])
        )
        assert list(labels.values()) == ["WT", "TC", "ET"]
        for (position, region), scatter in zip(labels.items(), axes.collections, strict=True):
            x, y = points(scatter).T
            assert list(y) == values[region]
            assert np.abs(x - position).max() < 0.2, "near the tick of its region"
            assert to_hex(scatter.get_facecolor()[0]) == spec.REGION_COLOURS[region]
    dice, hd95 = figure.axes
    assert dice.get_ylim()[0] < 0 and dice.get_ylim()[1] > 1
    assert hd95.get_yscale() == "symlog" and hd95.get_ylim()[1] > 30
    assert hd95.get_yticklabels()[-1].get_text() == "20"


def test_points_of_a_region_do_not_hide_each_other():
    figure = charts.distribution_figure([same_in_all(0.5, 3.0)] * 9, METRICS)
    x = points(figure.axes[0].collections[0])[:, 0]
    assert np.diff(np.sort(x)).min() > 0.01


@pytest.mark.parametrize("count, boxes", [(4, 0), (5, 3)])
def test_distribution_has_boxes_from_five_cases_on(count, boxes):
    rows = [same_in_all(k / 10, float(k)) for k in range(count)]
    for axes, medians in zip(charts.distribution_figure(rows, METRICS).axes, ([0.2], [2.0])):
        assert len(axes.patches) == boxes
        if boxes:
            lines = [list(line.get_ydata()) for line in axes.lines if len(line.get_ydata()) == 2]
            assert lines.count(medians * 2) == 3


def test_penalties_for_an_empty_mask_are_marked():
    normal, penalty = (
        charts.distribution_figure([same_in_all(0.0, hd95)], METRICS).axes[1]
        for hd95 in (372.0, 373.12866)
    )
    assert heights(normal, DASHED) == [] and heights(penalty, DASHED) == [373.12866]
    assert "one mask empty" in [text.get_text().strip() for text in penalty.texts]


def test_lesion_wise_metrics_have_axes_of_their_own():
    values = {"dice": 0.9, "hd95": 1.0, "lesion_dice": 0.4, "lesion_hd95": 50.0}
    rows = [scored(dict.fromkeys(spec.REGIONS, values))]
    figure = charts.distribution_figure(rows, LESION_METRICS)
    assert titles(figure) == [
        "Dice: higher is better",
        "HD95 (mm): lower is better",
        "Lesion-wise Dice: higher is better",
        "Lesion-wise HD95 (mm): lower is better",
    ]
    assert [points(axes.collections[0])[0, 1] for axes in figure.axes] == [0.9, 1.0, 0.4, 50.0]
    plain = charts.distribution_figure(rows, METRICS)
    assert figure.get_figheight() == 2 * plain.get_figheight()


def test_a_metric_without_values_leaves_empty_axes():
    figure = charts.distribution_figure([same_in_all(None, None)], METRICS)
    assert all(not points(scatter).size for axes in figure.axes for scatter in axes.collections)
    assert figures.to_png(figure, charts.DPI).startswith(b"\x89PNG")


def test_volumes_show_prediction_minus_truth_over_their_mean():
    rows = [
        measured({"WT": 10.0, "TC": 4.0, "ET": 1.0}, {"WT": 14.0, "TC": 3.0, "ET": 1.0}),
        measured({"WT": 20.0, "TC": 8.0, "ET": 2.0}, {"WT": 22.0, "TC": 9.0, "ET": 2.5}, "b"),
    ]
    figure = charts.volume_figure(rows)
    assert titles(figure) == ["WT, whole tumour", "TC, tumour core", "ET, enhancing tumour"]
    assert figure.axes[0].get_ylabel() == "prediction − truth (mL)"
    expected = {"WT": [(12, 4), (21, 2)], "TC": [(3.5, -1), (8.5, 1)], "ET": [(1, 0), (2.25, 0.5)]}
    for axes, values in zip(figure.axes, expected.values()):
        [scatter] = axes.collections
        np.testing.assert_allclose(points(scatter), values)
        x, y = np.array(values).T
        assert axes.get_xlim()[0] == 0 and axes.get_xlim()[1] > x.max()
        assert axes.get_ylim()[1] > np.abs(y).max() and sum(axes.get_ylim()) == 0
    # The line at zero and the bias, the mean of 4 and 2.
    assert heights(figure.axes[0], "-") == [0, 3]


@pytest.mark.parametrize(
    "differences, lines", [([2], [0]), ([2, 4], [0, 3]), ([1, 2, 3, 4], [0, 2.5])]
)
def test_volumes_of_few_cases_have_no_bias_or_no_limits(differences, lines):
    for axes in charts.volume_figure(with_differences(differences)).axes:
        assert heights(axes, "-") == lines and heights(axes, DASHED) == []


def test_limits_of_agreement_are_dashed_lines_in_the_bands_of_their_intervals():
    for axes in charts.volume_figure(with_differences([1, 2, 3, 4, 5])).axes:
        sd = 2.5**0.5  # the sample variance of 1 … 5 is 2.5
        assert heights(axes, "-") == [0, 3]
        assert heights(axes, DASHED) == pytest.approx([3 - 1.96 * sd, 3 + 1.96 * sd], abs=1e-3)
        # The factors of the exact interval for five patients are 0.923 and 5.975.
        bands = sorted((band.get_y(), band.get_y() + band.get_height()) for band in axes.patches)
        expected = [(3 - 5.975 * sd, 3 - 0.923 * sd), (3 + 0.923 * sd, 3 + 5.975 * sd)]
        np.testing.assert_allclose(bands, expected, atol=2e-3)
        assert axes.get_ylim()[1] > 3 + 5.975 * sd


def test_cases_of_one_patient_are_joined():
    figure = charts.volume_figure(with_differences([4, 1, 2], "aba"))
    joined = [line for line in figure.axes[0].lines if line.get_color() == "#8a8a8a"]
    # Means of truth and prediction of patient a: 10 and 14, 10 and 12.
    assert [line.get_xydata().tolist() for line in joined] == [[[11, 2], [12, 4]]]


def test_pairs_are_ordered_by_the_other_models_dice():
    pairs = {
        "WT": [("a", 0.9, 0.5), ("b", 0.7, 0.8), ("c", 0.6, 0.1)],
        "TC": [("a", 0.2, 0.3)],
        "ET": [],
    }
    figure = charts.pairs_figure(pairs)
    assert titles(figure) == ["WT, whole tumour", "TC, tumour core", "ET, enhancing tumour"]
    lines, there, here = figure.axes[0].collections
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["the other", "this evaluation"]
    assert (there.get_label(), here.get_label()) == ("the other", "this evaluation")
    assert points(there).tolist() == [[1, 0.1], [2, 0.5], [3, 0.8]]
    assert points(here).tolist() == [[1, 0.6], [2, 0.9], [3, 0.7]]
    assert [segment[:, 1].tolist() for segment in lines.get_segments()] == [
        [0.1, 0.6],
        [0.5, 0.9],
        [0.8, 0.7],
    ]
    assert to_hex(here.get_facecolor()[0]) == spec.REGION_COLOURS["WT"]
    assert to_hex(there.get_facecolor()[0]) == "#ffffff"
    assert [len(points(axes.collections[1])) for axes in figure.axes] == [3, 1, 0]
    assert figures.to_png(figure, charts.DPI).startswith(b"\x89PNG")


def test_without_data_there_is_no_chart():
    unlabelled = case_results.CaseResult("a", "a", None, "unseen", "unlabelled")
    assert charts.distribution_figure([unlabelled], METRICS) is None
    assert charts.volume_figure([]) is None
    assert charts.pairs_figure({region: [] for region in spec.REGIONS}) is None
