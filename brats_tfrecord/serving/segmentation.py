"""The segmentation of a case, and the post-processing of its label map."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import entr

from brats_tfrecord import spec
from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.cohort import nifti
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.metrics import extent
from brats_tfrecord.preprocess import crop, masks
from brats_tfrecord.serving import postprocess
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.postprocess import PostProcessing


@dataclass(frozen=True)
class Segmentation:
    """The segmentation of a case on the case's own voxel grid, axes in LPS order.

    Returned by `predict.Segmenter`; not meant to be constructed by users.

    Attributes:
        case_id: id of the case.
        card: card of the model; names the label scheme and the K output channels.
        classes: uint8 [X, Y, Z] canonical class ids (`spec.CLASS_NAMES`), post-processed.
        box_probabilities: float32 [x, y, z, K] probabilities within the box that the network saw,
            before post-processing. `probabilities` covers the whole grid.
        box_origin: (x, y, z) of the box's first voxel; negative where the box leaves the grid.
        geometry: shape, affine and axis order of the case's files.
        post_processing: a sentence for each change that post-processing made; empty if none.
        seconds: stage -> its duration in seconds.
        warnings: a sentence for each reason to doubt the segmentation; empty if none.
        missing: names of the model's modalities that the case lacks.

    Example:
        >>> segmentation = Segmenter("model/saved_model").segment(case)
        >>> segmentation.write("case_seg.nii.gz")
        >>> segmentation.volumes_ml["WT"], segmentation.probabilities.shape
        (61.3, (240, 240, 155, 4))
    """

    case_id: str
    card: ModelCard
    classes: np.ndarray
    box_probabilities: np.ndarray
    box_origin: tuple[int, int, int]
    geometry: Geometry
    post_processing: tuple[str, ...]
    seconds: dict[str, float]
    warnings: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def labels(self) -> np.ndarray:
        """uint8 [X, Y, Z] labels in the file values of the label scheme; computed on access."""
        return masks.to_file_values(self.classes, self.card.scheme)

    @property
    def probabilities(self) -> np.ndarray:
        """float32 [X, Y, Z, K] probabilities on the whole grid; computed on access.

        Voxels outside the box that the network saw are background with probability 1.
        """
        return crop.uncrop(
            self.box_probabilities,
            self.box_origin,
            self.classes.shape,
            self.card.channels.background_fill,
        )

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Structure -> volume in millilitres, see `metrics.extent.volumes_ml`."""
        classes = self.card.scheme.classes
        return extent.volumes_ml(
            np.bincount(self.classes.ravel(), minlength=classes), self.geometry.spacing_mm, classes
        )

    def entropy(self) -> np.ndarray:
        """Computes the predictive entropy of every voxel (Shannon 1948).

        If the channels are exclusive classes (softmax), H = -sum_k p_k ln p_k, from 0 to ln K
        (1.39 for four classes). If they are regions (sigmoid), H is the sum of the K binary
        entropies, from 0 to K ln 2 (2.08 for three regions); because regions are nested, this is
        an upper bound of their joint entropy. For averaged probabilities (several networks, or
        flips) H is the entropy of the average, which includes the disagreement of the networks
        (Lakshminarayanan et al. 2017; Mehrtash et al. 2020, IEEE TMI 39(12)). Post-processing has
        no influence.

        Returns:
            float32 [X, Y, Z] in nats; 0 outside the box that the network saw.
        """
        total = np.zeros(self.box_probabilities.shape[:3], np.float32)
        for channel in range(self.box_probabilities.shape[3]):
            probability = np.ascontiguousarray(self.box_probabilities[..., channel])
            total += entr(probability)
            if self.card.channels.activation == "sigmoid":
                total += entr(1 - probability)
        # Rounding can raise a probability above 1, whose term is then negative.
        np.maximum(total, 0, out=total)
        return crop.uncrop(total, self.box_origin, self.classes.shape)

    def write(self, path: Path | str) -> None:
        """Writes the labels as uint8 NIfTI with the axis order, affine and units of the case.

        Raises:
            InputError: `path` does not end in .nii.gz or .nii, or is a folder.
        """
        nifti.write_volume(path, self.labels, self.geometry)


def apply_post_processing(
    classes: np.ndarray,
    replace_enhancing: bool,
    post_processing: PostProcessing,
    spacing_mm: Sequence[float],
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Post-processes a label map and describes every change.

    Args:
        classes: uint8 [X, Y, Z] canonical classes as predicted.
        replace_enhancing: whether the enhancing tumour is below `min_enhancing_voxels`. The
            caller decides this on the recipe's grid; `classes` may be on another one.
        post_processing: thresholds of the components.
        spacing_mm: (x, y, z) voxel spacing in millimetres.

    Returns:
        (uint8 [X, Y, Z]; a sentence for each change with the volume on this grid, such as "ET of
        0.3 mL replaced by NCR/NET" or "small components of WT, 1.2 mL in all, replaced by
        background").
    """
    changes = []
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    enhancing = classes == spec.ET
    if replace_enhancing and enhancing.any():
        changes.append(
            f"ET of {np.count_nonzero(enhancing) * voxel_ml:.3g} mL replaced by "
            f"{spec.CLASS_NAMES[spec.NCR]}"
        )
        classes = np.where(enhancing, np.uint8(spec.NCR), classes)
    # Components are only removed, so the box of the tumour contains every change.
    box = bounding_box(classes != spec.BACKGROUND)
    before = classes[box]
    after = post_processing.without_small_components(before, spacing_mm)
    if after is before:
        return classes, tuple(changes)
    new_values = after[after != before]
    for region, class_id in postprocess.REPLACEMENTS.items():
        if count := np.count_nonzero(new_values == class_id):
            changes.append(
                f"small components of {region}, {count * voxel_ml:.3g} mL in all, replaced "
                f"by {spec.CLASS_NAMES[class_id]}"
            )
    classes = classes.copy()
    classes[box] = after
    return classes, tuple(changes)
