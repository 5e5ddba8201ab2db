"""Figures, judged by their pixels: orientation, colours, empty states."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from brats_tfrecord import spec
from brats_tfrecord.report import figures, tables


def head():
    """A box of brain in air with one small cube of ET at its right, front and top (LPS order)."""
    volume = np.zeros((40, 60, 30), np.float32)
    volume[5:35, 5:55, 5:25] = np.random.default_rng(1).uniform(90, 110, (30, 50, 20))
    classes = np.zeros(volume.shape, np.uint8)
    classes[8:14, 9:15, 17:23] = spec.ET
    return volume, classes


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def panels(picture):
    """Boxes of the six or nine slices: the large parts that are not white, in reading order."""
    labels, _ = ndimage.label((picture < 250).any(axis=2))
    boxes = [box for box in ndimage.find_objects(labels)
             if min(side.stop - side.start for side in box) > 90]
    return sorted(boxes, key=lambda box: (round(box[0].start, -1), box[1].start))


def yellow(picture):
    return (picture[..., 0] > 180) & (picture[..., 1] > 150) & (picture[..., 2] < 90)


def test_plane_image_axes_by_hand():
    x, y, z = np.indices((4, 5, 6))
    index = 100 * x + 10 * y + z
    axial, coronal, sagittal = (figures.plane_image(index, axis, 1) for axis in (2, 1, 0))
    # First pixel of a row is the patient's right (or front), the first row front (or top).
    assert axial.shape == (5, 4) and axial[0, 0] == 1 and axial[4, 3] == 341
    assert coronal.shape == (6, 4) and coronal[0, 0] == 15 and coronal[5, 3] == 310
    assert sagittal.shape == (6, 5) and sagittal[0, 0] == 105 and sagittal[5, 4] == 140


def test_right_front_top_is_drawn_left_and_up_in_every_plane():
    volume, classes = head()
    picture = pixels(figures.overlay_figure(volume, None, classes, "case"))
    boxes = panels(picture)
    assert len(boxes) == 6
    for plain, overlaid in zip(boxes[::2], boxes[1::2]):
        assert not yellow(picture[plain]).any()
        height, width = picture[overlaid].shape[:2]
        row, column = np.argwhere(yellow(picture[overlaid])).mean(axis=0)
        assert row < 0.45 * height and column < 0.45 * width


def test_truth_and_prediction_have_columns_of_their_own():
    volume, classes = head()
    picture = pixels(figures.overlay_figure(volume, classes, np.zeros_like(classes), "case"))
    boxes = panels(picture)
    assert len(boxes) == 9
    assert [bool(yellow(picture[box]).any()) for box in boxes] == [False, True, False] * 3


def test_every_class_has_its_colour():
    volume, _ = head()
    for which in (spec.NCR, spec.ED, spec.ET):
        classes = np.zeros(volume.shape, np.uint8)
        classes[10:30, 10:50, 8:22] = which
        picture = pixels(figures.overlay_figure(volume, None, classes, "case"))
        rows, columns = panels(picture)[1]
        middle = picture[(rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2]
        colour = [int(spec.CLASS_COLOURS[which][place:place + 2], 16) for place in (1, 3, 5)]
        assert np.abs(middle - colour).max() < 110 and middle.argmin() == np.argmin(colour)


def test_empty_cases_are_drawn_and_wrong_shapes_refused():
    volume, classes = head()
    nothing = np.zeros_like(classes)
    assert len(panels(pixels(figures.overlay_figure(volume, None, nothing, "no tumour")))) == 6
    assert figures.overlay_figure(np.zeros_like(volume), nothing, nothing, "air").startswith(
        b"\x89PNG")
    with pytest.raises(ValueError, match="prediction has shape"):
        figures.overlay_figure(volume, None, classes[1:], "case")


def test_titles_are_text_not_mathematics():
    volume, classes = head()
    assert figures.overlay_figure(volume, None, classes, r"cost_$\frac{$").startswith(b"\x89PNG")


def row(dice, hd95):
    figure = {"dice": dice, "hd95": hd95, "sensitivity": None, "specificity": 1.0}
    return tables.CaseResult("a", "a", None, "unseen", "ok",
                             metrics={"WT": figure, "TC": figure, "ET": figure})


@pytest.mark.parametrize("rows", [
    [row(1.0, 0.0)], [row(0.5, 3.0)] * 3, [row(0.1 * k, 373.12866 / (k + 1)) for k in range(9)],
])
def test_distribution_shows_the_colour_of_every_region(rows):
    picture = pixels(figures.distribution_figure(rows))
    for colour in spec.REGION_COLOURS.values():
        wanted = [int(colour[place:place + 2], 16) for place in (1, 3, 5)]
        assert (np.abs(picture - wanted).max(axis=2) < 8).any()


def test_distribution_of_no_compared_case_is_none():
    assert figures.distribution_figure([]) is None
    assert figures.distribution_figure(
        [tables.CaseResult("a", "a", None, "unseen", "unlabelled")]) is None
