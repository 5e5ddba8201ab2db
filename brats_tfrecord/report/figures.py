"""Pictures of an evaluation as PNG bytes, drawn without pyplot's global state."""

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from brats_tfrecord import spec
from brats_tfrecord.metrics.case import HD95_ONE_EMPTY_MM
from brats_tfrecord.metrics.surface import bounding_box

_PLANES = (
    # name, axis it cuts, letters at left, right, top, bottom
    ("axial", 2, "RLAP"),
    ("coronal", 1, "RLSI"),
    ("sagittal", 0, "APSI"),
)
_MARGIN = 10
"""Voxels around brain and tumour, so that the letters at the edges stand on black."""

_OPACITY = 0.6
_BOX_FROM = 5
"""Below so many cases quartiles say less than the points themselves."""


def overlay_figure(volume, truth, prediction, title):
    """Draws a case: rows are planes, columns the bare image, the truth and the prediction.

    Each plane is cut where it shows most tumour (of the truth; of the prediction where the truth
    is empty or not there). Radiological convention: the patient's right is on the left.

    Args:
        volume: float32 [X, Y, Z], LPS order, 0 outside the brain, about 1 mm voxels.
        truth: canonical class ids [X, Y, Z], or None for an unlabelled case: no such column.
        prediction: canonical class ids [X, Y, Z].
        title: one line above, such as the case id and the modality.

    Returns:
        PNG bytes.

    Raises:
        ValueError: shapes differ.
    """
    maps = {"truth": truth, "prediction": prediction}
    maps = {name: np.asarray(array) for name, array in maps.items() if array is not None}
    for name, array in maps.items():
        if array.shape != volume.shape:
            raise ValueError(
                f"{name} has shape {array.shape}, the volume {volume.shape}; expected one shape"
            )
    volume, maps, origin = _crop_to_brain(volume, maps)
    centre = _most_tumour(maps.values(), volume.shape)
    low, high = _window(volume)
    figure, axes = _overlay_grid(volume.shape, ["image", *maps])
    # Names come from outside: a dollar sign in one must not start matplotlib's mathematics.
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, parse_math=False)
    for row, (plane, axis, letters) in enumerate(_PLANES):
        for one, name in zip(axes[row], ["image", *maps]):
            one.imshow(plane_image(volume, axis, centre[axis]), cmap="gray", vmin=low, vmax=high,
                       interpolation="bilinear")
            if name in maps:
                _paint(one, plane_image(maps[name], axis, centre[axis]))
            _letter_edges(one, letters)
        axes[row, 0].set_ylabel(f"{plane}, slice {centre[axis] + origin[axis]}", fontsize=8)
    return _png(figure)


def distribution_figure(rows):
    """Draws Dice and HD95 of every region, one point a case, with quartile boxes from 5 cases on.

    Args:
        rows: `tables.CaseResult`; those without metrics are passed over.

    Returns:
        PNG bytes, or None if no row has metrics.
    """
    rows = [row for row in rows if row.metrics is not None]
    if not rows:
        return None
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    dice, hd95 = figure.subplots(1, 2)
    for axes, metric in ((dice, "dice"), (hd95, "hd95")):
        for place, region in enumerate(spec.REGIONS):
            values = [row.metrics[region][metric] for row in rows]
            _strip(axes, place, values, spec.REGION_COLOURS[region])
        axes.set_xticks(range(len(spec.REGIONS)), list(spec.REGIONS))
        axes.set_xlim(-0.5, len(spec.REGIONS) - 0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.tick_params(labelsize=9)
    dice.set_ylim(-0.03, 1.03)
    dice.set_title("Dice (higher is better)", fontsize=10)
    _millimetre_axis(hd95, max(row.metrics[r]["hd95"] for row in rows for r in spec.REGIONS))
    return _png(figure)


def plane_image(array, axis, index):
    """Returns slice `index` across `axis` of an LPS array as [row, column], right side up.

    LPS indices grow to the left, to the back and to the top. So plain columns run from the
    patient's right (or front) to the left (or back), and rows of the axial plane from front to
    back; only where rows are Z must they be turned over, or the head would stand on its crown.
    """
    image = np.take(array, index, axis).T
    return image if axis == 2 else image[::-1]


def _crop_to_brain(volume, maps):
    """Cuts to the box of brain and tumour plus a margin; also returns the box's origin."""
    content = volume != 0
    for array in maps.values():
        content = content | (array != spec.BACKGROUND)
    if not content.any():
        return volume, maps, (0, 0, 0)
    box = tuple(slice(max(side.start - _MARGIN, 0), side.stop + _MARGIN)
                for side in bounding_box(content))
    cut = {name: array[box] for name, array in maps.items()}
    return volume[box], cut, tuple(side.start for side in box)


def _most_tumour(maps, shape):
    """Index of the slice with most tumour on each axis, of the first map that has any."""
    for array in maps:
        tumour = array != spec.BACKGROUND
        if tumour.any():
            return tuple(int(tumour.sum(axis=tuple({0, 1, 2} - {axis})).argmax())
                         for axis in range(3))
    return tuple(size // 2 for size in shape)


def _window(volume):
    """Intensities shown as black and as white: 1st and 99th percentile of the brain."""
    brain = volume[volume != 0]
    if not brain.size:
        return 0, 1
    low, high = np.percentile(brain, (1, 99))
    return (low, high) if low < high else (low - 1, low + 1)


def _overlay_grid(shape, columns):
    """A figure whose axes have the planes' own proportions."""
    heights = (shape[1], shape[2], shape[2])
    widths = (shape[0], shape[0], shape[1])
    column = max(widths)
    scale = 2.7 / column
    figure = Figure(
        figsize=(scale * column * len(columns) + 0.35, scale * sum(heights) + 0.9),
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04, wspace=0, hspace=0)
    axes = figure.subplots(3, len(columns), squeeze=False, height_ratios=heights)
    for one in axes.flat:
        one.set(xticks=[], yticks=[], facecolor="black")
        one.spines[:].set_visible(False)
    figure.legend(
        handles=[Patch(facecolor=spec.CLASS_COLOURS[c], edgecolor="black", linewidth=0.5,
                       label=f"{spec.CLASS_NAMES[c]} ({spec.CLASS_TITLES[c]})")
                 for c in (spec.NCR, spec.ED, spec.ET)],
        loc="outside lower center", ncols=len(columns), frameon=False, fontsize=8,
    )
    for one, name in zip(axes[0], columns):
        one.set_title(name, fontsize=9)
    return figure, axes


def _paint(axes, classes):
    """Fills the classes of a slice with their colours and draws the tumour's outline."""
    colours = np.array([(*to_rgb(colour), _OPACITY) for colour in spec.CLASS_COLOURS])
    colours[spec.BACKGROUND] = 0
    axes.imshow(colours[classes], interpolation="nearest")
    for which in range(1, len(spec.CLASS_NAMES)):
        inside = classes == which
        if inside.any() and min(inside.shape) > 1:  # contours need cells, not a line
            axes.contour(inside, levels=[0.5], colors=spec.CLASS_COLOURS[which], linewidths=0.8)


def _letter_edges(axes, letters):
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"),
              (0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom"))
    for letter, (x, y, ha, va) in zip(letters, places):
        axes.text(x, y, letter, transform=axes.transAxes, color="white", fontsize=8,
                  ha=ha, va=va)


def _strip(axes, place, values, colour):
    """Points of one region, spread sideways by rank so that the picture is always the same."""
    if len(values) >= _BOX_FROM:
        axes.boxplot(values, positions=[place], widths=0.55, showfliers=False, patch_artist=True,
                     manage_ticks=False, boxprops={"facecolor": colour, "alpha": 0.35},
                     medianprops={"color": "black", "linewidth": 1.4})
    spread = (np.arange(len(values)) * 0.618034 % 1 - 0.5) * 0.36 if len(values) > 1 else [0]
    axes.scatter(place + np.asarray(spread), values, s=22, color=colour, edgecolor="black",
                 linewidth=0.6, zorder=3)


def _millimetre_axis(axes, highest):
    """HD95 runs from 0 to 373 mm: linear to 1 mm and logarithmic above, with plain numbers."""
    axes.set_yscale("symlog", linthresh=1, linscale=0.5)
    ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100, 200) if tick <= max(highest, 5) * 1.5]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-0.1, max(highest, 5) * 1.8)
    axes.set_title("HD95 in mm (lower is better)", fontsize=10)
    if highest >= HD95_ONE_EMPTY_MM:
        axes.axhline(HD95_ONE_EMPTY_MM, color="#777777", linestyle="--", linewidth=0.8)
        axes.text(0.01, HD95_ONE_EMPTY_MM, " one mask empty", fontsize=8, color="#444444",
                  va="bottom", transform=axes.get_yaxis_transform())


def _png(figure):
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()
