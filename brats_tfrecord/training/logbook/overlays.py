"""Pictures of the same validation slices after every epoch, with truth and prediction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from brats_tfrecord import spec
from brats_tfrecord.preprocess import masks
from brats_tfrecord.records.manifest import Manifest
from brats_tfrecord.training.data.record_reader import RecordReader

_PREFERRED = ("t1ce", "flair", "t2", "t1")
"""Modalities to show, best first: T1ce shows the tumour core, the hardest part to segment."""

_MARGIN = 6
"""Voxels to show around brain and tumour; the letters of the sides are placed there."""

_SIZE, _DPI = (8.0, 3.2), 110
# Fixed margins: a layout engine would take longer than drawing.
_GRID = {"left": 0.005, "right": 0.995, "bottom": 0.09, "top": 0.87, "wspace": 0.01}
_OPACITY = 0.45


@dataclass(frozen=True)
class _Slice:
    """An axial slice of a case, with its truth.

    Attributes:
        case: index of the case among those of the reader.
        z: index of the slice in the crop.
        grey: float32 [X, Y], one modality, from 0 (black) to 1 (white).
        truth: uint8 [X, Y], canonical classes.
        box: the part of the slice to show, a pair of `slice`.
    """

    case: int
    z: int
    grey: np.ndarray
    truth: np.ndarray
    box: tuple


class Overlays:
    """Draws the predictions of a few fixed slices.

    The cases are spread evenly over the range of tumour sizes, from the smallest to the largest.
    Each is shown in the axial slice with most tumour core, or with most tumour if it has no core.
    The choice depends only on the manifest and the records.

    Attributes:
        case_ids: ids of the cases, smallest tumour first; empty if no case has tumour.
        modality: name of the modality that is shown.
        slices: index of the case among those of the folds -> index of its slice in the crop.
    """

    def __init__(
        self,
        manifest: Manifest,
        folds: Sequence[int],
        modalities: Sequence[str],
        *,
        count: int = 4,
        cache: str = "none",
        cache_dir: Path | str | None = None,
    ) -> None:
        """Chooses cases and slices, and reads them.

        Args:
            manifest: manifest of the dataset.
            folds: validation folds, to choose cases from.
            modalities: names of the network's channels, in order; the first of t1ce, flair, t2, t1
                among them is shown.
            count: number of cases; fewer if fewer have tumour.
            cache, cache_dir: as in `RecordReader`.

        Raises:
            InputError: a shard differs from the manifest.
        """
        self.case_ids = _spread(manifest, folds, count)
        self._reader = RecordReader(manifest, folds, modalities, cache=cache, cache_dir=cache_dir)
        self._shape = (*manifest.crop_shape, len(modalities))
        self.modality = next(name for name in _PREFERRED if name in modalities)
        self._classes = range(1, manifest.label_scheme.classes)
        channel = list(modalities).index(self.modality)
        self._slices = [
            self._choose_slice(self._reader.case_ids.index(case_id), channel)
            for case_id in self.case_ids
        ]
        self.slices = {chosen.case: chosen.z for chosen in self._slices}

    def draw(self, epoch: int, predictions: Mapping[int, np.ndarray]) -> np.ndarray:
        """Draws one picture per case: the slice, the truth and the prediction.

        The orientation is the radiological convention: the patient's right is on the left.

        Args:
            epoch: epoch to name in the title.
            predictions: case -> int [X, Y], the predicted classes of its slice, for each case of
                `slices`.

        Returns:
            uint8 RGB [N, H, W, 3]; N is 0 if no case has tumour.
        """
        pictures = []
        for chosen, case_id in zip(self._slices, self.case_ids):
            title = f"{case_id}   axial slice {chosen.z} of the crop   epoch {epoch}"
            pictures.append(self._picture(chosen, predictions[chosen.case], title))
        if not pictures:
            return np.zeros((0, 1, 1, 3), np.uint8)
        return np.stack(pictures)

    def _choose_slice(self, case: int, channel: int) -> _Slice:
        packed = np.empty(self._shape[:3], np.uint8)
        self._reader.read_mask(case, (0, 0, 0), packed)
        classes = masks.unpack_classes(packed)
        z = choose_slice(classes)
        image = np.empty((*self._shape[:2], 1, self._shape[3]), self._reader.image_dtype)
        self._reader.read_image(case, (0, 0, z), image)
        stored, truth = image[:, :, 0, channel].astype(np.float32), classes[:, :, z].copy()
        grey, brain = window(stored)
        return _Slice(case, z, grey, truth, _box(brain | (truth != spec.BACKGROUND)))

    def _picture(self, chosen: _Slice, classes: np.ndarray, title: str) -> np.ndarray:
        figure = Figure(figsize=_SIZE, dpi=_DPI, facecolor="black")
        # A dollar sign in a case's name must not start a formula.
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, color="white", parse_math=False)
        panels = {self.modality: None, "truth": chosen.truth, "prediction": classes}
        row = figure.subplots(1, len(panels), gridspec_kw=_GRID)
        for axes, (name, painted) in zip(row, panels.items()):
            axes.set_title(name, fontsize=9, color="white")
            axes.set_axis_off()
            axes.imshow(
                _as_rows(chosen.grey, chosen.box),
                cmap="gray",
                vmin=0,
                vmax=1,
                interpolation="bilinear",
            )
            if painted is not None:
                _paint(axes, _as_rows(painted, chosen.box))
            _label_sides(axes)
        figure.legend(
            handles=[
                Patch(
                    color=spec.CLASS_COLOURS[c],
                    label=f"{spec.CLASS_NAMES[c]} ({spec.CLASS_TITLES[c]})",
                )
                for c in self._classes
            ],
            loc="lower left",
            ncols=len(self._classes),
            frameon=False,
            fontsize=8,
            labelcolor="white",
            handlelength=1,
        )
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _spread(manifest: Manifest, folds: Sequence[int], count: int) -> list[str]:
    """Ids of up to `count` cases with tumour, evenly spaced in the order of tumour size."""
    sizes = {
        case.case_id: sum(case.class_voxels[c] for c in spec.REGIONS["WT"])
        for case in manifest.cases
        if case.labelled and case.fold in folds
    }
    ordered = sorted((size, case_id) for case_id, size in sizes.items() if size)
    ranks = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[rank][1] for rank in ranks]


def choose_slice(classes: np.ndarray) -> int:
    """Returns the index of the axial slice with most tumour core.

    Without tumour core this is the slice with most tumour, without tumour the middle slice.

    Args:
        classes: canonical classes [X, Y, Z].
    """
    for region in ("TC", "WT"):
        voxels = np.isin(classes, spec.REGIONS[region]).sum(axis=(0, 1))
        if voxels.any():
            return int(voxels.argmax())
    return classes.shape[2] // 2


def window(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps the intensities of a slice to grey levels.

    The window goes from the 1st to the 99.5th percentile of the brain. In a z-scored crop the
    background has a constant value other than 0; the most frequent value is taken for it and
    becomes black.

    Args:
        stored: float32 [X, Y].

    Returns:
        float32 [X, Y], grey levels from 0 to 1; bool [X, Y], the brain. Both are 0 if the slice is
        constant.
    """
    values, counts = np.unique(stored, return_counts=True)
    brain = stored != values[counts.argmax()]
    if not brain.any():
        return np.zeros_like(stored), brain
    low, high = np.percentile(stored[brain], (1, 99.5))
    # The darkest tissue is lighter than black, so that the brain differs from the background.
    grey = 0.04 + 0.96 * np.clip((stored - low) / max(high - low, 1e-6), 0, 1)
    return np.where(brain, grey, 0).astype(np.float32), brain


def _box(content: np.ndarray) -> tuple[slice, slice]:
    """Ranges of X and Y around a mask [X, Y], with a margin; the whole slice if it is empty."""
    if not content.any():
        return slice(None), slice(None)
    voxels = np.argwhere(content)
    x, y = (
        slice(max(first - _MARGIN, 0), last + 1 + _MARGIN)
        for first, last in zip(voxels.min(axis=0), voxels.max(axis=0))
    )
    return x, y


def _as_rows(array: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
    """Cuts a slice [X, Y] in LPS order to the box and transposes it to [row, column].

    X runs to the patient's left, Y to the back.
    """
    return array[box].T


def _paint(axes: Axes, classes: np.ndarray) -> None:
    """Fills each class of a slice with its colour and outlines it."""
    colours = np.array([(*to_rgb(colour), _OPACITY) for colour in spec.CLASS_COLOURS])
    colours[spec.BACKGROUND] = 0
    axes.imshow(colours[classes], interpolation="nearest")
    for class_id in range(1, len(spec.CLASS_NAMES)):
        inside = classes == class_id
        if inside.any() and min(inside.shape) > 1:  # contours need two voxels along each axis
            axes.contour(inside, levels=[0.5], colors=spec.CLASS_COLOURS[class_id], linewidths=0.9)


def _label_sides(axes: Axes) -> None:
    positions = {"R": (0.02, 0.5), "L": (0.98, 0.5), "A": (0.5, 0.97), "P": (0.5, 0.03)}
    for letter, (x, y) in positions.items():
        axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            color="white",
            fontsize=8,
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=2, foreground="black")],
        )
