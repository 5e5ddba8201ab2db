"""The picture of a case, checked by the contents of its panels."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from brats_tfrecord import spec
from brats_tfrecord.report import figures

BLACK, WHITE = "#000000", "#ffffff"


def head():
    """A box of brain in air with a bright cube of ET at its right, front and top (LPS order)."""
    volume = np.zeros((40, 60, 30), np.float32)
    volume[5:35, 5:55, 5:25] = 100
    classes = np.zeros(volume.shape, np.uint8)
    classes[8:14, 9:15, 17:23] = spec.ET
    volume[classes > 0] = 300
    return volume, classes


def box(class_id, inside=np.s_[10:30, 10:50, 8:20]):
    """The same brain with a box of one class."""
    volume, classes = head()
    classes[:] = 0
    classes[inside] = class_id
    return volume, classes


def contours(axes):
    """(colour, width, bounds) of the contours in drawing order; bounds are x0, y0, x1, y1 in mm."""
    return [
        (to_hex(lines.get_color()[0]), lines.get_linewidth()[0], bounds(lines))
        for lines in axes.collections
    ]


def bounds(lines):
    points = np.concatenate(lines.get_segments())
    return (*points.min(axis=0), *points.max(axis=0))


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_right_front_top_is_drawn_left_and_up_in_every_plane():
    volume, classes = head()
    figure = figures.case_figure(volume, None, classes, "case")
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        "axial, slice 17",
        "coronal, slice 9",
        "sagittal, slice 8",
    ]
    for axes in figure.axes[:3]:
        image = np.asarray(axes.images[0].get_array())
        row, column = np.argwhere(image == 300).mean(axis=0) / image.shape
        assert row < 0.45 and column < 0.45
        left, right, bottom, top = axes.images[0].get_extent()
        assert left < right and bottom > top, "the first row and column are at the upper left"
        assert axes.get_xlim()[0] < axes.get_xlim()[1] and axes.get_ylim()[0] > axes.get_ylim()[1]


def test_letters_name_the_sides_of_the_patient():
    volume, classes = head()
    figure = figures.case_figure(volume, None, classes, "case")
    for axes, expected in zip(figure.axes, ("RLAP", "RLSI", "APSI") * 2):
        at = {text.get_position(): text.get_text() for text in axes.texts}
        sides = [(0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02)]
        assert "".join(at[side] for side in sides) == expected


@pytest.mark.parametrize("class_id", [spec.NCR, spec.ED, spec.ET, spec.RC])
def test_every_predicted_class_has_its_contour_in_the_lower_row(class_id):
    volume, classes = box(class_id)
    figure = figures.case_figure(volume, None, classes, "case")
    assert not any(axes.collections for axes in figure.axes[:3])
    sizes = [(20, 40), (20, 12), (40, 12)]
    for axes, (width, height) in zip(figure.axes[3:], sizes, strict=True):
        (edge, _, _), (colour, _, (x0, y0, x1, y1)) = contours(axes)
        assert (edge, colour) == (BLACK, spec.CLASS_COLOURS[class_id])
        assert (x1 - x0, y1 - y0) == (width, height)
    assert f"predicted {spec.CLASS_NAMES[class_id]}" in legend(figure)


def test_contours_lie_on_the_borders_of_the_voxels():
    volume, classes = box(spec.ED)
    axial, coronal, sagittal = figures.case_figure(volume, None, classes, "case").axes[3:]
    assert contours(axial)[-1][2] == (10, 10, 30, 50)
    # Rows of the other planes are Z from the top: voxels 8 … 19 of 30.
    assert contours(coronal)[-1][2] == (10, 10, 30, 22)
    assert contours(sagittal)[-1][2] == (10, 10, 50, 22)


def test_line_styles_differ_between_classes():
    volume, classes = box(spec.ED)
    classes[12:28, 14:46, 9:19] = spec.ET
    classes[14:26, 18:42, 10:18] = spec.NCR
    axes = figures.case_figure(volume, None, classes, "case").axes[3]
    styles = [str(lines.get_linestyle()) for lines in axes.collections[1::2]]
    assert len(set(styles)) == 3


def test_the_prediction_is_drawn_on_top_of_the_wider_white_truth():
    volume, classes = box(spec.ED)
    shifted = np.roll(classes, 3, axis=1)
    figure = figures.case_figure(volume, classes, shifted, "case")
    edge, truth, _, prediction = contours(figure.axes[3])
    assert (edge[0], truth[0], prediction[0]) == (BLACK, WHITE, spec.CLASS_COLOURS[spec.ED])
    assert edge[1] > truth[1] > prediction[1]
    assert truth[2] == (10, 10, 30, 50) and prediction[2] == (10, 13, 30, 53)
    assert legend(figure)[0] == "truth"


def test_missed_tumour_has_a_white_contour_only_and_unlabelled_cases_have_none():
    volume, classes = box(spec.ED)
    missed = figures.case_figure(volume, classes, np.zeros_like(classes), "case")
    assert [colour for colour, *_ in contours(missed.axes[3])] == [BLACK, WHITE]
    unlabelled = figures.case_figure(volume, None, classes, "case")
    assert WHITE not in [colour for colour, *_ in contours(unlabelled.axes[3])]
    assert "truth" not in legend(unlabelled)


def test_the_border_of_two_classes_is_the_contour_of_the_inner_one():
    volume, classes = box(spec.ET)
    classes[14:26, 18:42, 11:19] = spec.NCR
    for axes in figures.case_figure(volume, None, classes, "case").axes[3:]:
        outlines = {to_hex(lines.get_color()[0]): lines for lines in axes.collections}
        outer, inner = (outlines[spec.CLASS_COLOURS[c]] for c in (spec.ET, spec.NCR))
        assert len(outer.get_segments()) == len(inner.get_segments()) == 1, "no hole in ET"
        x0, y0, x1, y1 = bounds(outer)
        assert x0 < bounds(inner)[0] and bounds(inner)[2] < x1
        assert y0 < bounds(inner)[1] and bounds(inner)[3] < y1


def test_panels_are_true_to_scale_and_the_scale_bar_measures_them():
    # The box has 20 x 40 x 30 mm; with margins the view has 68 mm, so that the bar has 20 mm.
    volume, classes = box(spec.ED, np.s_[10:30, 10:30, 6:16])
    figure = figures.case_figure(volume, None, classes, "case", (1, 2, 3))
    for axes, size in zip(figure.axes[3:], [(20, 40), (20, 30), (40, 30)]):
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert right - left == pytest.approx(68) and bottom - top == pytest.approx(68)
        x0, y0, x1, y1 = contours(axes)[-1][2]
        assert (x1 - x0, y1 - y0) == size
        centre = (left + right) / 2, (bottom + top) / 2
        assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx(centre), "the tumour's centre"
        [bar] = axes.lines
        assert np.ptp(bar.get_xdata()) * 68 == pytest.approx(20)
        assert "20 mm" in [text.get_text() for text in axes.texts]


def test_the_upper_row_outlines_the_view_of_the_lower_row():
    volume, classes = head()
    figure = figures.case_figure(volume, None, classes, "case")
    for upper, lower in zip(figure.axes[:3], figure.axes[3:], strict=True):
        [frame] = upper.patches
        assert sorted((frame.get_x(), frame.get_x() + frame.get_width())) == pytest.approx(
            sorted(lower.get_xlim())
        )
        assert sorted((frame.get_y(), frame.get_y() + frame.get_height())) == pytest.approx(
            sorted(lower.get_ylim())
        )


def test_the_lower_row_is_darker():
    volume, classes = head()
    figure = figures.case_figure(volume, None, classes, "case")
    assert [axes.images[0].get_clim() for axes in figure.axes] == [(100, 300)] * 3 + [
        (100, 100 + 1.6 * 200)
    ] * 3


def test_cases_without_tumour_have_the_upper_row_only():
    volume, classes = head()
    nothing = np.zeros_like(classes)
    for image, truth in ((volume, nothing), (np.zeros_like(volume), None)):
        figure = figures.case_figure(image, truth, nothing, "healthy")
        assert len(figure.axes) == 3 and not figure.legends
        assert figures.case_png(image, truth, nothing, "healthy").startswith(b"\x89PNG")


def test_arrays_of_different_shapes_are_refused():
    volume, classes = head()
    with pytest.raises(ValueError, match="prediction has shape"):
        figures.case_figure(volume, None, classes[1:], "case")


def test_one_voxel_at_the_edge_has_a_closed_contour():
    volume, classes = head()
    classes[:] = 0
    classes[0, 0, 0] = spec.ED
    for axes in figures.case_figure(volume, None, classes, "case").axes[3:]:
        [segment] = axes.collections[-1].get_segments()
        assert segment[0].tolist() == segment[-1].tolist()
        assert np.ptp(segment, axis=0).tolist() == [1, 1]


def test_titles_are_plain_text():
    volume, classes = head()
    title = r"cost_$\frac{$"
    figure = figures.case_figure(volume, classes, classes, title)
    assert [text.get_text() for text in figure.texts] == [title]
    first, second = (figures.case_png(volume, classes, classes, title) for _ in range(2))
    assert first == second


def test_contours_are_visible_in_the_png():
    volume, classes = box(spec.ET)
    picture = np.asarray(
        Image.open(io.BytesIO(figures.case_png(volume, None, classes, "case"))).convert("RGB")
    )
    yellow = np.abs(picture.astype(int) - (255, 213, 0)).max(axis=2) < 60
    middle = len(picture) // 2
    assert not yellow[:middle].any() and yellow[middle:].sum() > 300
