"""Pictures of the same validation slices at every epoch: truth beside prediction."""

from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from brats_tfrecord import spec
from brats_tfrecord.preprocess import masks
from brats_tfrecord.training.data.record_reader import RecordReader

_GREY = ("t1ce", "flair", "t2", "t1")
"""What tumour is shown on, best first: its core, the hard part, is seen on T1ce."""

_MARGIN = 6
"""Voxels around brain and tumour, where the letters stand."""

_SIZE, _DPI = (8.0, 3.2), 110
# By hand, for a layout engine takes longer than the drawing.
_PLACE = {"left": 0.005, "right": 0.995, "bottom": 0.09, "top": 0.87, "wspace": 0.01}
_OPACITY = 0.45


@dataclass(frozen=True)
class _Slice:
    """What is kept of a case: an axial slice of one modality, and its truth.

    Attributes:
        case: its place among the reader's cases.
        z: of the slice within the crop.
        grey: float32 [X, Y], from 0 (black) to 1 (white).
        truth: uint8 [X, Y] canonical classes.
        box: part of the slice to show, a pair of `slice`.
    """

    case: int
    z: int
    grey: np.ndarray
    truth: np.ndarray
    box: tuple


class Overlays:
    """A few fixed slices, drawn anew at every validation, from its predictions.

    The cases are spread evenly over the range of tumour sizes, from the smallest to the largest;
    each shows the axial slice with most tumour core, or else most tumour. The choice depends on
    the manifest and the records alone. Only the slices stay in memory.

    Attributes:
        case_ids: ids of the cases, smallest tumour first; empty if no case has any.
    """

    def __init__(self, manifest, folds, modalities, *, count=4, cache="none", cache_dir=None):
        """Chooses cases and slices.

        Args:
            manifest: `records.manifest.Manifest`.
            folds: folds to choose from, those of validation.
            modalities: names of the channels that predictions are made from, in order; the first
                of t1ce, flair, t2, t1 among them is shown.
            count: cases, fewer where fewer have tumour.
            cache, cache_dir: as `RecordReader` takes them.

        Raises:
            InputError: a shard that is not what the manifest says.
        """
        self.case_ids = _spread(manifest, folds, count)
        self._reader = RecordReader(manifest, folds, modalities, cache=cache, cache_dir=cache_dir)
        self._shape = (*manifest.crop_shape, len(modalities))
        self._shown = next(name for name in _GREY if name in modalities)
        self._classes = range(1, manifest.label_scheme.classes)
        channel = list(modalities).index(self._shown)
        self._predicted = {}
        self._slices = [
            self._choose_slice(self._reader.case_ids.index(case_id), channel)
            for case_id in self.case_ids
        ]

    def take(self, case, classes):
        """Keeps the slice to show of a prediction, if its case is one of those shown.

        Args:
            case: its place among the folds' cases, as in `make_eval_dataset`.
            classes: int [X, Y, Z] canonical classes of the whole crop.
        """
        for chosen in self._slices:
            if chosen.case == case:
                self._predicted[case] = classes[:, :, chosen.z].copy()

    def draw(self, epoch):
        """Draws one picture a case: the bare slice, the truth and the latest prediction.

        Radiological convention: the patient's right is on the left.

        Args:
            epoch: to name in the title.

        Returns:
            uint8 RGB [N, H, W, 3], N = 0 where no case has tumour.
        """
        pictures = []
        for chosen, case_id in zip(self._slices, self.case_ids):
            title = f"{case_id}   axial slice {chosen.z} of the crop   epoch {epoch}"
            pictures.append(self._picture(chosen, self._predicted[chosen.case], title))
        if not pictures:
            return np.zeros((0, 1, 1, 3), np.uint8)
        return np.stack(pictures)

    def _choose_slice(self, case, channel):
        packed = np.empty(self._shape[:3], np.uint8)
        self._reader.read_mask(case, (0, 0, 0), packed)
        classes = masks.unpack_classes(packed)
        z = _best_slice(classes)
        image = np.empty((*self._shape[:2], 1, self._shape[3]), self._reader.image_dtype)
        self._reader.read_image(case, (0, 0, z), image)
        stored, truth = image[:, :, 0, channel].astype(np.float32), classes[:, :, z].copy()
        grey, brain = _windowed(stored)
        return _Slice(case, z, grey, truth, _box(brain | (truth != spec.BACKGROUND)))

    def _picture(self, chosen, classes, title):
        figure = Figure(figsize=_SIZE, dpi=_DPI, facecolor="black")
        # Names come from outside: a dollar sign in one must not start matplotlib's mathematics.
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, color="white", parse_math=False)
        panels = {self._shown: None, "truth": chosen.truth, "prediction": classes}
        row = figure.subplots(1, len(panels), gridspec_kw=_PLACE)
        for axes, (name, painted) in zip(row, panels.items()):
            axes.set_title(name, fontsize=9, color="white")
            axes.set_axis_off()
            axes.imshow(
                _laid(chosen.grey, chosen.box),
                cmap="gray",
                vmin=0,
                vmax=1,
                interpolation="bilinear",
            )
            if painted is not None:
                _paint(axes, _laid(painted, chosen.box))
            _letter_edges(axes)
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


def _spread(manifest, folds, count):
    """Ids of up to `count` cases with tumour, evenly spaced in the order of its size."""
    sizes = {
        case.case_id: sum(case.class_voxels[c] for c in spec.REGIONS["WT"])
        for case in manifest.cases
        if case.labelled and case.fold in folds
    }
    ordered = sorted((size, case_id) for case_id, size in sizes.items() if size)
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[place][1] for place in places]


def _best_slice(classes):
    """The axial slice with most tumour core, else most tumour, else the middle one."""
    for region in ("TC", "WT"):
        voxels = np.isin(classes, spec.REGIONS[region]).sum(axis=(0, 1))
        if voxels.any():
            return int(voxels.argmax())
    return classes.shape[2] // 2


def _windowed(stored):
    """A slice as grey from 0 to 1, between its brain's 1st and 99.5th percentile; and the brain.

    Outside the brain a z-scored crop is constant, and not 0: the most frequent value is taken for
    the background, and becomes black.

    Args:
        stored: float32 [X, Y].

    Returns:
        float32 [X, Y] and bool [X, Y].
    """
    values, counts = np.unique(stored, return_counts=True)
    brain = stored != values[counts.argmax()]
    if not brain.any():
        return np.zeros_like(stored), brain
    low, high = np.percentile(stored[brain], (1, 99.5))
    # The darkest tissue is kept above black, so that the brain stands out from what surrounds it.
    grey = 0.04 + 0.96 * np.clip((stored - low) / max(high - low, 1e-6), 0, 1)
    return np.where(brain, grey, 0).astype(np.float32), brain


def _box(content):
    """Ranges of X and Y around `content` [X, Y] with a margin; all of it where there is none."""
    if not content.any():
        return slice(None), slice(None)
    found = np.argwhere(content)
    first, last = found.min(axis=0), found.max(axis=0)
    return tuple(slice(max(a - _MARGIN, 0), b + 1 + _MARGIN) for a, b in zip(first, last))


def _laid(array, box):
    """[X, Y] of LPS order as [row, column]: X runs to the patient's left, Y to the back."""
    return array[box].T


def _paint(axes, classes):
    """Fills the classes of a slice with their colours and draws the outline of each."""
    colours = np.array([(*to_rgb(colour), _OPACITY) for colour in spec.CLASS_COLOURS])
    colours[spec.BACKGROUND] = 0
    axes.imshow(colours[classes], interpolation="nearest")
    for which in range(1, len(spec.CLASS_NAMES)):
        inside = classes == which
        if inside.any() and min(inside.shape) > 1:  # contours need cells, not a line
            axes.contour(inside, levels=[0.5], colors=spec.CLASS_COLOURS[which], linewidths=0.9)


def _letter_edges(axes):
    places = {"R": (0.02, 0.5), "L": (0.98, 0.5), "A": (0.5, 0.97), "P": (0.5, 0.03)}
    for letter, (x, y) in places.items():
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
