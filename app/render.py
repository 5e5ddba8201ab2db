"""Pictures of slices: arrays in LPS order [X, Y, Z] in, RGB images out. Pure functions.

Pictures follow the radiological convention: the viewer stands at the patient's feet and looks
them in the face, so that the patient's right is on the left of axial and coronal pictures; in
sagittal ones the face looks left. Pixels are square in millimetres, and the three planes of a
case share one scale.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from brats_tfrecord import spec

SIZE = 512
"""Width and height of a picture in pixels."""

CROSSHAIR_COLOUR = (143, 211, 255)
LETTER_COLOUR = (255, 255, 255)
MARGIN_MM = 6
"""Free space around the brain, where the letters stand."""


@dataclass(frozen=True)
class Plane:
    """How a plane of an LPS array is laid on the screen.

    Attributes:
        axis: the array axis that the plane's slices are counted along.
        columns: the array axis that runs from left to right.
        rows: the array axis that runs downwards, or upwards where `upwards` is set.
        upwards: whether the first row of the array is at the bottom of the picture.
        letters: directions at the left, right, top and bottom edge.
        towards: what the slices count from and to.
    """

    axis: int
    columns: int
    rows: int
    upwards: bool
    letters: tuple[str, str, str, str]
    towards: str


PLANES = {
    "axial": Plane(2, 0, 1, False, ("R", "L", "A", "P"), "I → S"),
    "coronal": Plane(1, 0, 2, True, ("R", "L", "S", "I"), "A → P"),
    "sagittal": Plane(0, 1, 2, True, ("A", "P", "S", "I"), "R → L"),
}
"""Array axes in LPS order count towards the patient's left, back and head."""


def render_plane(
    volume, plane, position, *, window, field, classes=None, shown=(), opacity=0.5, size=SIZE
):
    """Draws one slice with its overlay, crosshair and direction letters.

    Args:
        volume: [X, Y, Z] intensities.
        plane: a key of `PLANES`.
        position: voxel (x, y, z) that the crosshair marks; its slice along the plane is drawn.
        window: (low, high) intensities shown black and white, from `window_of`.
        field: the voxel ranges to show, from `field_of_view`.
        classes: uint8 [X, Y, Z] canonical class ids, or None for no overlay.
        shown: class ids to colour; the others stay transparent.
        opacity: 0 (invisible) to 1 (hides the image).
        size: width and height in pixels.

    Returns:
        uint8 [size, size, 3].
    """
    laid = PLANES[plane]
    grey = _enlarged(_slice(volume, laid, position, field), size, Image.Resampling.BICUBIC)
    picture = np.repeat(_to_grey(grey, window)[..., None], 3, axis=-1)
    if classes is not None:
        labels = _slice(classes, laid, position, field).astype(np.float32)
        # Nearest neighbour: between two classes lies no third one.
        labels = _enlarged(labels, size, Image.Resampling.NEAREST).astype(np.uint8)
        picture = _blended(picture, labels, shown, opacity)
    return _annotated(picture.astype(np.uint8), laid, position, field)


def window_of(volume):
    """Intensities to show black and white: 1st and 99.8th percentile of the non-zero voxels.

    Returns:
        (low, high) floats with low < high, also for a constant volume.
    """
    inside = volume[volume != 0]
    if not inside.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(inside, (1, 99.8)))
    return (low, high) if high > low else (low - 1, low + 1)


def field_of_view(volumes, spacing_mm):
    """The cube around everything that is not zero: what the three planes show.

    Args:
        volumes: [X, Y, Z, C] intensities; a volume of zeros is shown whole.
        spacing_mm: voxel spacing (X, Y, Z).

    Returns:
        ((start, stop), (start, stop), (start, stop)) voxel ranges along X, Y and Z, of equal
        length in millimetres; they may reach beyond the array.
    """
    inside = np.any(volumes != 0, axis=-1)
    ranges = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        hits = np.flatnonzero(inside.any(axis=others))
        ranges.append((hits[0], hits[-1] + 1) if hits.size else (0, inside.shape[axis]))
    side_mm = 2 * MARGIN_MM + max(
        (stop - start) * mm for (start, stop), mm in zip(ranges, spacing_mm)
    )
    field = []
    for (start, stop), mm in zip(ranges, spacing_mm):
        length = round(side_mm / mm)
        first = (int(start) + int(stop) - length) // 2
        field.append((first, first + length))
    return tuple(field)


def middle_of(field, shape):
    """The voxel in the middle of `field`, inside an array of `shape`."""
    return tuple(
        min(max((start + stop) // 2, 0), length - 1) for (start, stop), length in zip(field, shape)
    )


def png_data_url(picture):
    """A `data:` URL holding `picture` [H, W, 3] uint8: the page needs no second request."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _slice(array, laid, position, field):
    """The slice through `position` as shown: [rows, columns] of `field`, zeros beyond `array`."""
    rows, columns = field[laid.rows], field[laid.columns]
    canvas = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), array.dtype)
    section = np.take(array, position[laid.axis], axis=laid.axis).T
    there = tuple(
        slice(max(start, 0), max(min(stop, length), 0))
        for (start, stop), length in zip((rows, columns), section.shape)
    )
    here = tuple(
        slice(part.start - start, part.stop - start)
        for part, (start, _) in zip(there, (rows, columns))
    )
    canvas[here] = section[there]
    return canvas[::-1] if laid.upwards else canvas


def _enlarged(section, size, method):
    """Resamples [rows, columns] to float32 [size, size]; both span the same millimetres."""
    section = np.ascontiguousarray(section, np.float32)
    return np.asarray(Image.fromarray(section).resize((size, size), method))


def _to_grey(section, window):
    low, high = window
    return np.clip((section - low) * (255 / (high - low)), 0, 255)


def _blended(picture, labels, shown, opacity):
    """Lays the colours of the classes in `shown` over `picture`, float32 [H, W, 3]."""
    colours = np.zeros((256, 3), np.float32)
    alpha = np.zeros((256, 1), np.float32)
    for class_id in shown:
        colours[class_id] = rgb_of(spec.CLASS_COLOURS[class_id])
        alpha[class_id] = opacity
    cover = alpha[labels]
    return picture * (1 - cover) + colours[labels] * cover


def rgb_of(colour):
    """(red, green, blue), 0 to 255, of a "#rrggbb" string."""
    return tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))


def _annotated(picture, laid, position, field):
    """Draws crosshair and letters onto `picture` and returns it as uint8 [H, W, 3]."""
    image = Image.fromarray(picture)
    size = image.width
    draw = ImageDraw.Draw(image, "RGBA")
    column, row = _pixel_of(laid, position, field, size)
    gap = size // 40  # keeps what lies at the crossing visible
    for ends in (
        ((0, row), (column - gap, row)),
        ((column + gap, row), (size, row)),
        ((column, 0), (column, row - gap)),
        ((column, row + gap), (column, size)),
    ):
        draw.line(ends, fill=(*CROSSHAIR_COLOUR, 120), width=2)
    font = ImageFont.load_default(size=size // 26)
    inset, middle = size // 32, size // 2
    places = ((inset, middle), (size - inset, middle), (middle, inset), (middle, size - inset))
    for place, letter in zip(places, laid.letters):
        draw.text(
            place,
            letter,
            fill=LETTER_COLOUR,
            font=font,
            anchor="mm",
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )
    return np.asarray(image)


def _pixel_of(laid, position, field, size):
    """The pixel (column, row) at the centre of the voxel `position`."""
    pixels = []
    for axis in (laid.columns, laid.rows):
        start, stop = field[axis]
        pixels.append(round((position[axis] - start + 0.5) / (stop - start) * size - 0.5))
    column, row = pixels
    return column, size - 1 - row if laid.upwards else row
