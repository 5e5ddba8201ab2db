"""Pictures of volumes small enough to know every pixel: 6 x 8 x 5 voxels, LPS order."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from app import render
from brats_tfrecord import spec
from brats_tfrecord.report import slices

PLANES = {plane.name: plane for plane in slices.PLANES}
SHAPE = (6, 8, 5)
FIELD = ((-1, 7), (0, 8), (-2, 6))  # 8 voxels a side, so 10 pixels a voxel below
MIDDLE = (3, 4, 2)


def draw(plane, classes, *, position=MIDDLE, shown=(1, 2, 3), opacity=1.0, grey=0.0):
    volume = np.full(SHAPE, grey, np.float32)
    return render.render_plane(
        volume,
        PLANES[plane],
        position,
        window=(0, 255),
        field=FIELD,
        classes=classes,
        shown=shown,
        opacity=opacity,
        size=80,
    )


def one_voxel(voxel, class_id=spec.ET):
    classes = np.zeros(SHAPE, np.uint8)
    classes[voxel] = class_id
    return classes


def where(picture, class_id):
    """(rows, columns) of the pixels in the class's colour, as half-open ranges."""
    rows, columns = np.nonzero((picture == render.rgb_of(spec.CLASS_COLOURS[class_id])).all(-1))
    return (rows.min(), rows.max() + 1), (columns.min(), columns.max() + 1)


@pytest.mark.parametrize(
    "plane, voxel, rows, columns",
    [
        # The patient's left (large x) is on the right of the picture, the front (small y) on top.
        ("axial", (5, 0, 2), (0, 10), (60, 70)),
        ("axial", (0, 6, 2), (60, 70), (10, 20)),
        # The head (large z) is on top.
        ("coronal", (5, 4, 4), (10, 20), (60, 70)),
        ("coronal", (0, 4, 0), (50, 60), (10, 20)),
        # The face (small y) looks left.
        ("sagittal", (3, 0, 4), (10, 20), (0, 10)),
        ("sagittal", (3, 7, 0), (50, 60), (70, 80)),
    ],
)
def test_planes_lie_in_radiological_convention(plane, voxel, rows, columns):
    assert where(draw(plane, one_voxel(voxel)), spec.ET) == (rows, columns)


def test_only_the_chosen_slice_is_drawn():
    with pytest.raises(ValueError):
        where(draw("axial", one_voxel((5, 0, 1))), spec.ET)


def test_letters_name_the_edges():
    volume = np.zeros(SHAPE, np.float32)
    picture = render.render_plane(
        volume, PLANES["axial"], MIDDLE, window=(0, 1), field=FIELD, size=320
    )
    white = (picture > 180).all(-1)
    for edge in (white[:, :20], white[:, -20:], white[:20], white[-20:]):
        assert edge.any()
    assert not white[40:-40, 40:-40].any()


def test_every_class_has_its_colour_and_hidden_ones_show_the_image():
    classes = np.zeros(SHAPE, np.uint8)
    for class_id, voxel in enumerate([(0, 1, 2), (1, 1, 2), (5, 1, 2)], start=1):
        classes[voxel] = class_id
    picture = draw("axial", classes, shown=(spec.NCR, spec.ET), grey=100)
    assert tuple(picture[12, 15]) == render.rgb_of(spec.CLASS_COLOURS[spec.NCR])
    assert tuple(picture[12, 25]) == (100, 100, 100)
    assert tuple(picture[12, 65]) == render.rgb_of(spec.CLASS_COLOURS[spec.ET])


def test_opacity_mixes_image_and_colour():
    picture = draw("axial", one_voxel((2, 2, 2), spec.NCR), opacity=0.25, grey=100)
    mixed = 0.75 * 100 + 0.25 * np.array(render.rgb_of(spec.CLASS_COLOURS[spec.NCR]))
    assert np.abs(picture[25, 35] - mixed).max() < 1
    assert tuple(draw("axial", one_voxel((2, 2, 2)), opacity=0, grey=100)[25, 35]) == (100,) * 3


def test_crosshair_marks_the_position_in_every_plane():
    position = (1, 5, 4)  # pixel centres: x 24.5 or 25, y 54.5 or 55, z 14.5 or 15 (upwards)
    for plane, column, row in (("axial", 24, 54), ("coronal", 24, 15), ("sagittal", 54, 15)):
        picture = draw(plane, None, position=position).astype(int).sum(-1)
        # Away from the letters, in the middle of the edges, a line is all that is not black.
        assert abs(np.flatnonzero(picture[5]).mean() - column) <= 1
        assert abs(np.flatnonzero(picture[:, 5]).mean() - row) <= 1
        assert picture[row, column] == 0, "the crossing itself stays free"


def test_pixels_are_square_in_millimetres():
    # 4 x 3 x 2 mm voxels: 12, 16 and 24 of them make 48 mm.
    volumes = np.zeros((20, 24, 30, 2), np.float32)
    volumes[5:14, 3:12, 7:22, 1] = 1  # 36 x 27 x 30 mm
    field = render.field_of_view(volumes, (4.0, 3.0, 2.0))
    assert [(stop - start) for start, stop in field] == [12, 16, 24]
    assert all(
        start <= low and high <= stop
        for (start, stop), (low, high) in zip(field, ((5, 14), (3, 12), (7, 22)))
    )


def test_field_of_an_empty_case_shows_it_whole():
    (x0, x1), (y0, y1), (z0, z1) = render.field_of_view(np.zeros((6, 8, 4, 3)), (1, 1, 1))
    assert x0 <= 0 and x1 >= 6 and y0 <= 0 and y1 >= 8 and z0 <= 0 and z1 >= 4


def test_middle_stays_inside_the_array():
    assert render.middle_of(((0, 6), (-20, -10), (90, 100)), (6, 8, 5)) == (3, 0, 4)


def test_data_url_holds_the_picture():
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    head, data = render.png_data_url(picture).split(",")
    assert head == "data:image/png;base64"
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == picture).all()
