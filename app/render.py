"""Draws slices of LPS volumes [X, Y, Z] as RGB images. Pure functions.

Images follow the radiological convention: the patient's right is on the left of axial and coronal
images; in sagittal images the face looks to the left. Pixels are square in millimetres, and the
three planes of a case are drawn at one scale.
"""

import base64
import io
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from brats_tfrecord import spec
from brats_tfrecord.report.slices import PLANES, Plane

SIZE = 512
"""Width and height of an image in pixels."""

CROSSHAIR_COLOUR = (143, 211, 255)
LETTER_COLOUR = (255, 255, 255)
MARGIN_MM = 6
"""Free space around the brain, in which the direction letters are drawn."""

FieldOfView = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Voxel ranges (start, stop) along X, Y and Z; they may reach beyond the array."""


def render_plane(
    volume: np.ndarray,
    plane: Plane,
    position: Sequence[int],
    *,
    window: tuple[float, float],
    field: FieldOfView,
    classes: np.ndarray | None = None,
    shown: Collection[int] = (),
    opacity: float = 0.5,
    size: int = SIZE,
) -> np.ndarray:
    """Draws one slice with its overlay, crosshair and direction letters.

    Args:
        volume: [X, Y, Z] intensities.
        plane: one of `report.slices.PLANES`.
        position: voxel (x, y, z) of the crosshair; the slice through it is drawn.
        window: (low, high) intensities drawn as black and white, see `report.slices.grey_window`.
        field: the voxel ranges to draw, from `field_of_view`.
        classes: uint8 [X, Y, Z] canonical class ids, or None for no overlay.
        shown: class ids to colour; the others stay transparent.
        opacity: 0 (invisible) to 1 (hides the image).
        size: width and height in pixels.

    Returns:
        uint8 [size, size, 3].
    """
    grey = _resized(_section(volume, plane, position, field), size, Image.Resampling.BICUBIC)
    picture = np.repeat(_to_grey(grey, window)[..., None], 3, axis=-1)
    if classes is not None:
        labels = _section(classes, plane, position, field).astype(np.float32)
        # Class ids must not be interpolated: between 1 and 3 lies no 2.
        labels = _resized(labels, size, Image.Resampling.NEAREST).astype(np.uint8)
        picture = _blended(picture, labels, shown, opacity)
    return _annotated(picture.astype(np.uint8), plane, position, field)


def plane_urls(volume: np.ndarray, position: Sequence[int], **look: Any) -> list[str]:
    """Draws the three planes of `report.slices.PLANES` through `position`, as `data:` URLs.

    Args:
        volume: [X, Y, Z] intensities.
        position: voxel (x, y, z) of the crosshair.
        **look: keyword arguments of `render_plane`.
    """
    return [png_data_url(render_plane(volume, plane, position, **look)) for plane in PLANES]


def field_of_view(volumes: np.ndarray, spacing_mm: Sequence[float]) -> FieldOfView:
    """Computes the cube around all non-zero voxels, which the three planes show.

    Args:
        volumes: [X, Y, Z, C] intensities; volumes of zeros are shown whole.
        spacing_mm: voxel spacing (X, Y, Z).

    Returns:
        Voxel ranges of equal length in millimetres, up to rounding to whole voxels.
    """
    inside = np.any(volumes != 0, axis=-1)
    ranges = []
    for axis in range(3):
        in_plane = tuple({0, 1, 2} - {axis})
        indices = np.flatnonzero(inside.any(axis=in_plane))
        ranges.append((indices[0], indices[-1] + 1) if indices.size else (0, inside.shape[axis]))
    side_mm = 2 * MARGIN_MM + max(
        (stop - start) * mm for (start, stop), mm in zip(ranges, spacing_mm)
    )

    def widened(start, stop, mm):
        length = round(side_mm / mm)
        first = (int(start) + int(stop) - length) // 2
        return first, first + length

    x, y, z = (widened(start, stop, mm) for (start, stop), mm in zip(ranges, spacing_mm))
    return x, y, z


def middle_of(field: FieldOfView, shape: Sequence[int]) -> tuple[int, int, int]:
    """Returns the voxel in the middle of `field`, clipped to an array of `shape`."""
    x, y, z = (
        min(max((start + stop) // 2, 0), length - 1) for (start, stop), length in zip(field, shape)
    )
    return x, y, z


def png_data_url(picture: np.ndarray) -> str:
    """Encodes an image, uint8 [H, W, 3], as a `data:` URL, which needs no further request."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def rgb_of(colour: str) -> tuple[int, int, int]:
    """Converts "#rrggbb" to (red, green, blue), 0 to 255."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return red, green, blue


def _upwards(plane):
    """Whether the first row of the array is at the bottom of the image: only where rows are Z."""
    return plane.rows == 2


def _section(array, plane, position, field):
    """The slice through `position`, cut and zero-padded to `field`, as displayed [row, column]."""
    rows, columns = field[plane.rows], field[plane.columns]
    section = np.take(array, position[plane.axis], axis=plane.axis).T
    padded = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), array.dtype)
    source = tuple(
        slice(max(start, 0), max(min(stop, length), 0))
        for (start, stop), length in zip((rows, columns), section.shape)
    )
    target = tuple(
        slice(part.start - start, part.stop - start)
        for part, (start, _) in zip(source, (rows, columns))
    )
    padded[target] = section[source]
    return padded[::-1] if _upwards(plane) else padded


def _resized(section, size, method):
    """Resamples [rows, columns] to float32 [size, size]; both cover the same millimetres."""
    section = np.ascontiguousarray(section, np.float32)
    return np.asarray(Image.fromarray(section).resize((size, size), method))


def _to_grey(section, window):
    low, high = window
    return np.clip((section - low) * (255 / (high - low)), 0, 255)


def _blended(picture, labels, shown, opacity):
    """Blends the colours of the classes in `shown` into `picture`, float32 [H, W, 3]."""
    colours = np.zeros((256, 3), np.float32)
    alpha = np.zeros((256, 1), np.float32)
    for class_id in shown:
        colours[class_id] = rgb_of(spec.CLASS_COLOURS[class_id])
        alpha[class_id] = opacity
    cover = alpha[labels]
    return picture * (1 - cover) + colours[labels] * cover


def _annotated(picture, plane, position, field):
    """Returns uint8 [H, W, 3] `picture` with the crosshair and the direction letters."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image, "RGBA")
    _draw_crosshair(draw, _pixel_of(plane, position, field, image.width), image.width)
    _draw_letters(draw, plane.letters, image.width)
    return np.asarray(image)


def _draw_crosshair(draw, pixel, size):
    column, row = pixel
    gap = size // 40  # keeps the voxel at the crossing visible
    for ends in (
        ((0, row), (column - gap, row)),
        ((column + gap, row), (size, row)),
        ((column, 0), (column, row - gap)),
        ((column, row + gap), (column, size)),
    ):
        draw.line(ends, fill=(*CROSSHAIR_COLOUR, 120), width=2)


def _draw_letters(draw, letters, size):
    """Draws the direction letters in the middle of the left, right, top and bottom edge."""
    font = ImageFont.load_default(size=size // 26)
    inset, middle = size // 32, size // 2
    pixels = ((inset, middle), (size - inset, middle), (middle, inset), (middle, size - inset))
    for pixel, letter in zip(pixels, letters):
        draw.text(
            pixel,
            letter,
            fill=LETTER_COLOUR,
            font=font,
            anchor="mm",
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )


def _pixel_of(plane, position, field, size):
    """The pixel (column, row) at the centre of the voxel `position`."""
    pixel = []
    for axis in (plane.columns, plane.rows):
        start, stop = field[axis]
        pixel.append(round((position[axis] - start + 0.5) / (stop - start) * size - 0.5))
    column, row = pixel
    return column, size - 1 - row if _upwards(plane) else row
