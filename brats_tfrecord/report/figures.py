"""Draws the picture of a case: whole slices above, the tumour with its contours below."""

import io
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from contourpy import LineType, contour_generator
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from brats_tfrecord import spec
from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.report.slices import (
    PLANES,
    Plane,
    grey_window,
    most_informative_slices,
    plane_image,
)

_PANEL, _GAP, _LEFT, _TOP, _BOTTOM = 3.0, 0.05, 0.24, 0.52, 0.4
"""Inches: side of a panel, gap between panels, margins for row names, title and legend."""

_DPI = 110
_MARGIN_MM = 14.0
"""Margin around brain and tumour, so that the letters at the edges do not cover them."""

_SMALLEST_VIEW_MM = 50.0
_DIMMED = 1.6
"""Factor that widens the grey window below contours, so that bright tumour does not hide white."""

_TRUTH_WIDTH, _PREDICTION_WIDTH = 2.9, 1.4
_EDGE = 0.6
"""Points: widths of the lines, and of the black edge on either side of the truth's line."""

_LINE_STYLES: dict[int, Any] = {
    spec.ED: "-",
    spec.ET: (0, (4.5, 1.4)),
    spec.NCR: (0, (1.5, 0.8)),
    spec.RC: "-.",
}
"""Class -> line style, for readers who cannot tell red from green; drawn in this order."""

_ENCLOSED = {
    spec.ED: spec.REGIONS["WT"],
    spec.ET: spec.REGIONS["TC"],
    spec.NCR: (spec.NCR,),
    spec.RC: (spec.RC,),
}
"""Class -> classes inside its contour. The border of two nested classes is drawn once, as the
contour of the inner one."""


@dataclass(frozen=True)
class _View:
    """A cube of a case, in mm from the corner of the grid: its centre [3] and its side length."""

    centre: np.ndarray
    side: float


@dataclass(frozen=True)
class _Slice:
    """A slice of a case: its plane, its index along the plane's axis, and the (x, y, z) spacing."""

    plane: Plane
    index: int
    spacing_mm: np.ndarray

    def image(self, array: np.ndarray) -> np.ndarray:
        """The slice of an array [X, Y, Z] as [row, column]."""
        return plane_image(array, self.plane.axis, self.index)

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """(width, height) of a pixel."""
        return self.spacing_mm[self.plane.columns], self.spacing_mm[self.plane.rows]

    def limits(self, view: _View, height: float) -> tuple[float, float, float, float]:
        """Left, right, top and bottom of a view in mm; `height` is that of the whole slice."""
        across, down = view.centre[self.plane.columns], view.centre[self.plane.rows]
        if self.plane.axis != 2:
            down = height - down  # rows are Z, in reversed order
        half = view.side / 2
        return across - half, across + half, down - half, down + half


def case_png(
    volume: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    title: str,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> bytes:
    """Draws `case_figure` and returns it as PNG bytes; equal input gives equal bytes."""
    return to_png(case_figure(volume, truth, prediction, title, spacing_mm), _DPI)


def case_figure(
    volume: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    title: str,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Figure:
    """Draws a case in three planes: the plain slices, and below the tumour with its contours.

    Each plane shows the slice chosen by `slices.most_informative_slices`. In the lower row a wide
    white line is the truth, and a narrow coloured line on top of it the prediction, with one
    colour and line style per class. All panels of a row have the same scale in mm.

    Args:
        volume: float [X, Y, Z], LPS order, one modality (FLAIR or T1ce), 0 outside the brain.
        truth: canonical class ids [X, Y, Z], or None for an unlabelled case.
        prediction: canonical class ids [X, Y, Z].
        title: one line above the panels, such as the case id and the modality.
        spacing_mm: (x, y, z) voxel spacing in millimetres.

    Returns:
        The figure; its lower row is missing if neither map contains tumour.

    Raises:
        ValueError: shapes differ.
    """
    for name, array in (("truth", truth), ("prediction", prediction)):
        if array is not None and array.shape != volume.shape:
            raise ValueError(
                f"{name} has shape {array.shape}, the volume {volume.shape}; expected equal shapes"
            )
    spacing = np.asarray(spacing_mm, float)
    tumour = prediction != spec.BACKGROUND
    if truth is not None:
        tumour = tumour | (truth != spec.BACKGROUND)
    indices = most_informative_slices(truth, prediction)
    slices = [_Slice(plane, indices[plane.axis], spacing) for plane in PLANES]
    low, high = grey_window(volume[volume != 0])
    head = _view((volume != 0) | tumour, spacing)
    has_tumour = bool(tumour.any())
    figure, panels = _grid(title, 2 if has_tumour else 1)
    for axes, slice_ in zip(panels[0], slices):
        _show(axes, volume, slice_, (low, high), head)
        axes.set_title(f"{slice_.plane.name}, slice {slice_.index}", fontsize=9, pad=3)
    if has_tumour:
        close_up = _view(tumour, spacing)
        dimmed = (low, low + _DIMMED * (high - low))
        for upper, lower, slice_ in zip(*panels, slices):
            _frame(upper, slice_, close_up)
            _show(lower, volume, slice_, dimmed, close_up)
            if truth is not None:
                _contours(lower, truth, slice_, _truth_strokes())
            _contours(lower, prediction, slice_, _prediction_strokes())
        _legend(figure, truth, prediction)
    return figure


def _view(mask, spacing_mm):
    """The cube around the true voxels of `mask`, with a margin; around all voxels if none is."""
    box = bounding_box(mask) if mask.any() else tuple(slice(0, size) for size in mask.shape)
    start, stop = (
        np.array([getattr(side, end) for side in box]) * spacing_mm for end in ("start", "stop")
    )
    side = max((stop - start).max() + 2 * _MARGIN_MM, _SMALLEST_VIEW_MM)
    return _View((start + stop) / 2, side)


def _grid(title, rows):
    """The figure and its black square panels, as lists of rows."""
    width = _LEFT + 3 * _PANEL + 2 * _GAP
    height = _TOP + rows * (_PANEL + _GAP) + (_BOTTOM if rows > 1 else 0)
    figure = new_figure(width, height)
    figure.text(
        _LEFT / width,
        1 - 0.07 / height,
        title,
        ha="left",
        va="top",
        fontsize=11,
        weight="bold",
        parse_math=False,  # a dollar sign in a case id is plain text
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


def _show(axes, volume, slice_, grey, view):
    """Draws a slice in grey, cropped to the view, with letters at the edges and a scale bar."""
    image = slice_.image(volume)
    pixel_width, pixel_height = slice_.pixel_mm
    width, height = image.shape[1] * pixel_width, image.shape[0] * pixel_height
    axes.imshow(
        image,
        cmap="gray",
        vmin=grey[0],
        vmax=grey[1],
        interpolation="bilinear",
        extent=(0, width, height, 0),
    )
    left, right, top, bottom = slice_.limits(view, height)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    positions = (
        (0.02, 0.5, "left", "center"),
        (0.98, 0.5, "right", "center"),
        (0.5, 0.98, "center", "top"),
        (0.5, 0.02, "center", "bottom"),
    )
    for letter, (x, y, ha, va) in zip(slice_.plane.letters, positions):
        axes.text(x, y, letter, transform=axes.transAxes, color="white", fontsize=9, ha=ha, va=va)
    _scale_bar(axes, view.side)


def _scale_bar(axes, side):
    """Draws a bar of a round length, at most 30 % of the panel."""
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


def _frame(axes, slice_, view):
    """Outlines the view of the lower row in the upper panel."""
    height = sum(axes.images[0].get_extent()[2:])
    left, right, top, bottom = slice_.limits(view, height)
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


def _contours(axes, classes, slice_, strokes):
    """Draws the borders of the classes in a slice, halfway between the centres of voxels."""
    image = np.pad(slice_.image(classes), 1)
    pixel_width, pixel_height = slice_.pixel_mm
    x = (np.arange(image.shape[1]) - 0.5) * pixel_width
    y = (np.arange(image.shape[0]) - 0.5) * pixel_height
    outlines = {
        class_id: _outline(x, y, np.isin(image, enclosed))
        for class_id, enclosed in _ENCLOSED.items()
        if (image == class_id).any()
    }
    for class_id, colour, width, style in strokes:
        if class_id in outlines:
            axes.add_collection(
                LineCollection(
                    outlines[class_id], colors=colour, linewidths=width, linestyles=[style]
                ),
                autolim=False,
            )


def _outline(x, y, mask):
    """Polygons [N, 2] around the true pixels."""
    generator = contour_generator(x, y, mask.astype(float), line_type=LineType.Separate)
    return cast("list[np.ndarray]", generator.lines(0.5))


def _truth_strokes():
    """(class, colour, width, style) in drawing order: white lines with black edges."""
    return [
        (class_id, colour, width, "-")
        for colour, width in (("black", _TRUTH_WIDTH + 2 * _EDGE), ("white", _TRUTH_WIDTH))
        for class_id in _LINE_STYLES
    ]


def _prediction_strokes():
    """(class, colour, width, style) in drawing order: dashes on black, which fills their gaps."""
    return [
        stroke
        for class_id, style in _LINE_STYLES.items()
        for stroke in (
            (class_id, "black", _PREDICTION_WIDTH, "-"),
            (class_id, spec.CLASS_COLOURS[class_id], _PREDICTION_WIDTH, style),
        )
    ]


def _legend(figure, truth, prediction):
    """Explains the lines on the black of the panels; RC is listed only if it occurs."""
    maps = [prediction] if truth is None else [truth, prediction]
    listed = [
        class_id
        for class_id in _LINE_STYLES
        if class_id != spec.RC or any((array == spec.RC).any() for array in maps)
    ]
    handles = []
    if truth is not None:
        handles.append(Line2D([], [], color="white", linewidth=_TRUTH_WIDTH, label="truth"))
    handles += [
        Line2D(
            [],
            [],
            color=spec.CLASS_COLOURS[class_id],
            linewidth=1.6,
            linestyle=_LINE_STYLES[class_id],
            label=f"predicted {spec.CLASS_NAMES[class_id]}",
        )
        for class_id in listed
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


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """Creates a white figure of `width` x `height` inches with a canvas of its own."""
    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure, dpi: int) -> bytes:
    """Encodes a figure as PNG; equal figures give equal bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()
