"""The picture of a case as PNG bytes: whole slices above, the tumour with contours below."""

from dataclasses import dataclass

import numpy as np
from contourpy import contour_generator
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from brats_tfrecord import spec
from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.report.figure_png import new_figure, to_png
from brats_tfrecord.report.slices import PLANES, plane_image, telling_slices

_PANEL, _GAP, _LEFT, _TOP, _BOTTOM = 3.0, 0.05, 0.24, 0.52, 0.4
"""Inches: side of a panel, space between panels, room for row names, title and legend."""

_DPI = 110
_MARGIN_MM = 14.0
"""Around brain and tumour, so that the letters at the edges stand beside them."""

_SMALLEST_VIEW_MM = 50.0
_DIMMED = 1.6
"""By how much the grey window is wider under contours: a bright tumour must not hide white."""

_TRUTH_WIDTH, _WIDTH = 2.9, 1.4
_EDGE = 0.6
"""Points: width of the lines, and of the black on either side of the truth's."""

_LINES = {spec.ED: "-", spec.ET: (0, (4.5, 1.4)), spec.NCR: (0, (1.5, 0.8)), spec.RC: "-."}
"""A line style a class, for eyes that do not tell red from green; painted in this order."""

_INSIDE = {
    spec.ED: spec.REGIONS["WT"],
    spec.ET: spec.REGIONS["TC"],
    spec.NCR: (spec.NCR,),
    spec.RC: (spec.RC,),
}
"""What each class's line encloses. Neighbours share a border, so it is the inner one's alone."""


@dataclass(frozen=True)
class Picture:
    """A case's picture in the report.

    Attributes:
        case_id: whose it is.
        heading: why it is shown, such as "WT: worst, ET: median".
        caption: what is said below it.
        png: what `case_figure` returned.
    """

    case_id: str
    heading: str
    caption: str
    png: bytes


def case_figure(volume, truth, prediction, title, spacing_mm=(1.0, 1.0, 1.0)):
    """Draws a case in three planes: the bare slices, and the tumour in them with its contours.

    Each plane is cut by `slices.telling_slices`. Below, the broad white line is the truth; the
    narrow coloured line on top of it the prediction, one colour and line style a class. All
    panels of a row have one scale, true to the voxels' spacing.

    Args:
        volume: float [X, Y, Z], LPS order, one modality (FLAIR or T1ce), 0 outside the brain.
        truth: canonical class ids [X, Y, Z], or None for an unlabelled case.
        prediction: canonical class ids [X, Y, Z].
        title: one line above, such as the case id and the modality.
        spacing_mm: (x, y, z) voxel spacing in millimetres.

    Returns:
        PNG bytes. Without tumour in either map there is the upper row alone.

    Raises:
        ValueError: shapes differ.
    """
    for name, array in (("truth", truth), ("prediction", prediction)):
        if array is not None and array.shape != volume.shape:
            raise ValueError(
                f"{name} has shape {array.shape}, the volume {volume.shape}; expected one shape"
            )
    spacing_mm = np.asarray(spacing_mm, float)
    tumour = prediction != spec.BACKGROUND
    if truth is not None:
        tumour = tumour | (truth != spec.BACKGROUND)
    centre = telling_slices(truth, prediction)
    low, high = _grey_window(volume)
    head = _view((volume != 0) | tumour, spacing_mm)
    close = _view(tumour, spacing_mm) if tumour.any() else None
    figure, panels = _grid(title, 1 if close is None else 2)
    for column, plane in enumerate(PLANES):
        upper = panels[0][column]
        _show(upper, volume, plane, centre, spacing_mm, (low, high), head)
        upper.set_title(f"{plane.name}, slice {centre[plane.axis]}", fontsize=9, pad=3)
        if close is not None:
            _frame(upper, plane, close)
            lower = panels[1][column]
            dimmed = (low, low + _DIMMED * (high - low))
            _show(lower, volume, plane, centre, spacing_mm, dimmed, close)
            for classes, strokes in (
                (truth, _truth_strokes()),
                (prediction, _prediction_strokes()),
            ):
                if classes is not None:
                    _contours(lower, classes, plane, centre, spacing_mm, strokes)
    if close is not None:
        _legend(figure, truth, prediction)
    return to_png(figure, _DPI)


def _view(mask, spacing_mm):
    """(centre in mm of each axis, side in mm) of a cube around what `mask` holds."""
    box = bounding_box(mask) if mask.any() else tuple(slice(0, size) for size in mask.shape)
    start, stop = (
        np.array([getattr(side, end) for side in box]) * spacing_mm for end in ("start", "stop")
    )
    return (start + stop) / 2, max((stop - start).max() + 2 * _MARGIN_MM, _SMALLEST_VIEW_MM)


def _grey_window(volume):
    """Intensities shown as black and as white: 1st and 99.5th percentile of the brain."""
    brain = volume[volume != 0]
    if not brain.size:
        return 0, 1
    low, high = np.percentile(brain, (1, 99.5))
    return (low, high) if low < high else (low - 1, low + 1)


def _grid(title, rows):
    """The figure and its black square panels, as lists of rows."""
    width = _LEFT + 3 * _PANEL + 2 * _GAP
    height = _TOP + rows * (_PANEL + _GAP) + (_BOTTOM if rows > 1 else 0)
    figure = new_figure(width, height)
    # Names come from outside: a dollar sign in one must not start matplotlib's mathematics.
    figure.text(
        _LEFT / width,
        1 - 0.07 / height,
        title,
        ha="left",
        va="top",
        fontsize=11,
        weight="bold",
        parse_math=False,
    )
    panels = []
    for row in range(rows):
        bottom = height - _TOP - (row + 1) * _PANEL - row * _GAP
        panels.append(
            [
                figure.add_axes(
                    (
                        (_LEFT + column * (_PANEL + _GAP)) / width,
                        bottom / height,
                        _PANEL / width,
                        _PANEL / height,
                    ),
                    facecolor="black",
                    xticks=[],
                    yticks=[],
                )
                for column in range(3)
            ]
        )
        panels[-1][0].set_ylabel(("whole slice", "tumour, contours")[row], fontsize=9)
    return figure, panels


def _show(axes, volume, plane, centre, spacing_mm, grey, view):
    """One slice in grey, cut to the view, with letters at the edges and a scale bar."""
    image = plane_image(volume, plane.axis, centre[plane.axis])
    width, height = (
        image.shape[1] * spacing_mm[plane.columns],
        image.shape[0] * spacing_mm[plane.rows],
    )
    axes.imshow(
        image,
        cmap="gray",
        vmin=grey[0],
        vmax=grey[1],
        interpolation="bilinear",
        extent=(0, width, height, 0),
    )
    left, right, top, bottom = _edges(plane, view, height)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    places = (
        (0.02, 0.5, "left", "center"),
        (0.98, 0.5, "right", "center"),
        (0.5, 0.98, "center", "top"),
        (0.5, 0.02, "center", "bottom"),
    )
    for letter, (x, y, across, along) in zip(plane.letters, places):
        axes.text(
            x, y, letter, transform=axes.transAxes, color="white", fontsize=9, ha=across, va=along
        )
    _scale_bar(axes, view[1])


def _edges(plane, view, height):
    """Left, right, top and bottom of a view in the plane's picture, in mm."""
    across, down = view[0][plane.columns], view[0][plane.rows]
    if plane.axis != 2:
        down = height - down  # rows are Z, turned over
    half = view[1] / 2
    return across - half, across + half, down - half, down + half


def _scale_bar(axes, side):
    """A bar of a round length, about a fifth of the panel."""
    length = max(mm for mm in (5, 10, 20, 50, 100) if mm <= max(side * 0.3, 5))
    axes.plot(
        [0.04, 0.04 + length / side],
        [0.045] * 2,
        transform=axes.transAxes,
        color="white",
        linewidth=2.5,
        solid_capstyle="butt",
    )
    axes.text(
        0.04,
        0.06,
        f"{length} mm",
        transform=axes.transAxes,
        color="white",
        fontsize=8,
        ha="left",
        va="bottom",
    )


def _frame(axes, plane, close):
    """Where the lower row looks."""
    height = sum(axes.images[0].get_extent()[2:])
    left, right, top, bottom = _edges(plane, close, height)
    axes.add_patch(
        Rectangle(
            (left, top),
            right - left,
            bottom - top,
            fill=False,
            edgecolor="white",
            linewidth=0.8,
            linestyle=(0, (4, 3)),
            alpha=0.8,
        )
    )


def _contours(axes, classes, plane, centre, spacing_mm, strokes):
    """The borders of the classes of a slice, halfway between the centres of voxels."""
    image = np.pad(plane_image(classes, plane.axis, centre[plane.axis]), 1)
    x = (np.arange(image.shape[1]) - 0.5) * spacing_mm[plane.columns]
    y = (np.arange(image.shape[0]) - 0.5) * spacing_mm[plane.rows]
    outlines = {
        which: contour_generator(x, y, np.isin(image, inside).astype(float)).lines(0.5)
        for which, inside in _INSIDE.items()
        if (image == which).any()
    }
    for which, colour, width, style in strokes:
        if which in outlines:
            axes.add_collection(
                LineCollection(
                    outlines[which], colors=colour, linewidths=width, linestyles=[style]
                ),
                autolim=False,
            )


def _truth_strokes():
    """(class, colour, width, style) in the order to paint: white with black edges."""
    return [
        (which, colour, width, "-")
        for colour, width in (("black", _TRUTH_WIDTH + 2 * _EDGE), ("white", _TRUTH_WIDTH))
        for which in _LINES
    ]


def _prediction_strokes():
    """The class's dashes on black: what lies below must not fill their gaps."""
    return [
        stroke
        for which, style in _LINES.items()
        for stroke in (
            (which, "black", _WIDTH, "-"),
            (which, spec.CLASS_COLOURS[which], _WIDTH, style),
        )
    ]


def _legend(figure, truth, prediction):
    """Lines as they stand in the panels, on their black."""
    there = [
        which
        for which in _LINES
        if which != spec.RC
        or any((array == which).any() for array in (truth, prediction) if array is not None)
    ]
    handles = (
        []
        if truth is None
        else [Line2D([], [], color="white", linewidth=_TRUTH_WIDTH, label="truth")]
    )
    handles += [
        Line2D(
            [],
            [],
            color=spec.CLASS_COLOURS[which],
            linewidth=1.6,
            linestyle=_LINES[which],
            label=f"predicted {spec.CLASS_NAMES[which]}",
        )
        for which in there
    ]
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=len(handles),
        fontsize=9,
        facecolor="#202020",
        edgecolor="none",
        labelcolor="white",
        framealpha=1,
        handlelength=3.2,
        borderaxespad=0.3,
        borderpad=0.5,
    )
