"""The picture of a case, judged by its pixels: orientation, colours, scale, empty states."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from brats_tfrecord import spec
from brats_tfrecord.report import figures


def head():
    """A box of brain in air with a bright cube of ET at its right, front and top (LPS order)."""
    volume = np.zeros((40, 60, 30), np.float32)
    volume[5:35, 5:55, 5:25] = 100
    classes = np.zeros(volume.shape, np.uint8)
    classes[8:14, 9:15, 17:23] = spec.ET
    volume[classes > 0] = 300
    return volume, classes


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def panels(picture):
    """The three or six slices in reading order: the large parts that are not white."""
    labels, _ = ndimage.label((picture < 250).any(axis=2))
    boxes = [
        box
        for box in ndimage.find_objects(labels)
        if min(side.stop - side.start for side in box) > 250
    ]
    boxes.sort(key=lambda box: (round(box[0].start, -1), box[1].start))
    return [picture[box] for box in boxes]


def of_colour(panel, colour):
    """Pixels of about that colour, and no grey unless it is one."""
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
    vivid = np.ptp(panel, axis=2) >= 0.6 * np.ptp(wanted)
    return (np.abs(panel - wanted).max(axis=2) < 60) & vivid


def size(mask):
    """Height and width in pixels of what a mask holds."""
    return [np.ptp(np.flatnonzero(mask.any(axis=axis))) for axis in (1, 0)]


def filled(which, inside=np.s_[10:30, 10:50, 8:22]):
    volume, classes = head()
    classes[:] = 0
    classes[inside] = which
    volume[:] = volume > 0
    return volume, classes


def test_right_front_top_is_drawn_left_and_up_in_every_plane():
    volume, classes = head()
    found = panels(pixels(figures.case_figure(volume, None, classes, "case")))
    assert len(found) == 6
    for panel in found[:3]:
        bright = ndimage.binary_opening(panel.min(axis=2) > 200, np.ones((9, 9)))
        row, column = np.argwhere(bright).mean(axis=0) / panel.shape[0]
        assert row < 0.47 and column < 0.47


@pytest.mark.parametrize("which", [spec.NCR, spec.ED, spec.ET, spec.RC])
def test_every_predicted_class_has_its_colour_in_the_lower_row(which):
    volume, classes = filled(which)
    upper_and_lower = panels(pixels(figures.case_figure(volume, None, classes, "case")))
    assert [
        of_colour(panel, spec.CLASS_COLOURS[which]).sum() > 100 for panel in upper_and_lower
    ] == [False] * 3 + [True] * 3


def test_the_truth_is_white_and_the_prediction_lies_on_it():
    volume, classes = filled(spec.ED)
    volume[:] *= 0.01
    nothing = np.zeros_like(classes)
    missed, unlabelled, agreed = (
        panels(pixels(figures.case_figure(volume, truth, prediction, "case")))[3:]
        for truth, prediction in ((classes, nothing), (None, classes), (classes, classes))
    )
    green, white = spec.CLASS_COLOURS[spec.ED], "#ffffff"
    for one, two, three in zip(missed, unlabelled, agreed):
        assert not of_colour(one, green).any()
        without_truth = of_colour(two, white).sum()  # letters and scale bar
        assert of_colour(one, white).sum() > without_truth + 700
        assert (three.min(axis=2) > 120).sum() > (two.min(axis=2) > 120).sum() + 500
        assert of_colour(three, green).sum() > 0.8 * of_colour(two, green).sum()


def test_a_border_of_two_classes_belongs_to_the_inner_one():
    volume, classes = filled(spec.ET)
    classes[14:26, 18:42, 11:19] = spec.NCR
    for panel in panels(pixels(figures.case_figure(volume, None, classes, "case")))[3:]:
        yellow, red = (of_colour(panel, spec.CLASS_COLOURS[c]) for c in (spec.ET, spec.NCR))
        hole = ndimage.binary_dilation(red, iterations=4)
        assert red.any() and not (yellow & hole).any()
        assert max(size(red)) < 0.8 * max(size(yellow))


def test_spacing_shapes_the_picture_and_the_scale_bar_measures_it():
    volume, classes = filled(spec.ED, np.s_[10:30, 10:30, 10:20])
    found = panels(pixels(figures.case_figure(volume, None, classes, "case", (1, 2, 3))))[3:]
    # 20 x 40 x 30 mm; the view is 40 + 28 mm wide, so its bar is 20 mm long.
    for panel, (height, width) in zip(found, [(40, 20), (30, 20), (30, 40)]):
        outline = size(of_colour(panel, spec.CLASS_COLOURS[spec.ED]))
        corner = panel[300:, :150].min(axis=2) > 240
        bar_mm = max(np.flatnonzero(row).size for row in corner) / 20
        assert np.array(outline) / bar_mm == pytest.approx([height, width], rel=0.06)


def test_empty_cases_are_drawn_and_wrong_shapes_refused():
    volume, classes = head()
    nothing = np.zeros_like(classes)
    assert len(panels(pixels(figures.case_figure(volume, nothing, nothing, "healthy")))) == 3
    air = figures.case_figure(np.zeros_like(volume), None, nothing, "air")
    assert len(panels(pixels(air))) == 3
    with pytest.raises(ValueError, match="prediction has shape"):
        figures.case_figure(volume, None, classes[1:], "case")


def test_one_voxel_at_the_edge_has_an_outline():
    volume, classes = head()
    classes[:] = 0
    classes[0, 0, 0] = spec.ED
    for panel in panels(pixels(figures.case_figure(volume, None, classes, "case")))[3:]:
        assert of_colour(panel, spec.CLASS_COLOURS[spec.ED]).any()


def test_titles_are_text_not_mathematics_and_bytes_are_always_the_same():
    volume, classes = head()
    first, second = (
        figures.case_figure(volume, classes, classes, r"cost_$\frac{$") for _ in range(2)
    )
    assert first == second
