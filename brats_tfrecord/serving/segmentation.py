"""The segmentation of a case: what a `predict.Segmenter` hands back."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Segmentation:
    """The segmentation of a whole case on its own grid, in LPS order; `write` undoes that too.

    Attributes:
        case_id: of the case.
        card: of the model that made it; names the label scheme and the channels.
        classes: uint8 [X, Y, Z] canonical class ids, post-processed.
        covered: float32 [x, y, z, K], probabilities of the box that the network saw, channels as
            the card's `channels` names them: the network's own, before any post-processing.
        origin: (x, y, z) of the box's first voxel; negative where the box leaves the grid.
        geometry: how the case's files lay.
        post_processing: what post-processing changed in this case, a short text each; empty where
            it changed nothing.
        seconds: stage -> seconds it took.
        warnings: why the segmentation may mean little, a short text each.
    """

    case_id: str
    card: ModelCard
    classes: np.ndarray
    covered: np.ndarray
    origin: tuple[int, int, int]
    geometry: Geometry
    post_processing: tuple[str, ...]
    seconds: dict[str, float]
    warnings: tuple[str, ...] = ()

    @property
    def labels(self):
        """uint8 [X, Y, Z], `classes` in the label scheme's own file values; made when asked for."""
        return masks.to_file_values(self.classes, self.card.scheme)

    @property
    def probabilities(self):
        """float32 [X, Y, Z, K], `covered` on the whole grid; made when asked for.

        Outside the box the background is certain.
        """
        return crop.uncrop(
            self.covered, self.origin, self.classes.shape, self.card.channels.background_fill
        )

    @property
    def volumes_ml(self):
        """Millilitres of every structure, as `extent.volumes_ml` counts them."""
        classes = self.card.scheme.classes
        return extent.volumes_ml(
            np.bincount(self.classes.ravel(), minlength=classes), self.geometry.spacing_mm, classes
        )

    def entropy(self):
        """The predictive entropy of every voxel (Shannon 1948), float32 [X, Y, Z] in nats.

        Where classes exclude each other (softmax), H = -sum_k p_k ln p_k, from 0 to ln K (1.39 of
        four classes). Where channels are regions (sigmoid), each is a yes or no of its own, and H
        is the sum of their binary entropies, from 0 to K ln 2 (2.08 of three regions): as regions
        nest, that bounds their joint entropy from above. Of averaged probabilities (several
        networks, or flips) it is the entropy of the average, which counts the networks'
        disagreement in (Lakshminarayanan et al. 2017; Mehrtash et al. 2020, IEEE TMI 39(12)).
        0 outside the box that the network saw. Post-processing does not enter.
        """
        total = np.zeros(self.covered.shape[:3], np.float32)
        for channel in range(self.covered.shape[3]):
            probability = np.ascontiguousarray(self.covered[..., channel])
            total += entr(probability)
            if self.card.channels.activation == "sigmoid":
                total += entr(1 - probability)
        # A probability may exceed 1 by a rounding; entropy is not negative.
        np.maximum(total, 0, out=total)
        return crop.uncrop(total, self.origin, self.classes.shape)

    def write(self, path):
        """Writes the labels as uint8 NIfTI with the case's own order, affine and units.

        Raises:
            InputError: `path` does not end in .nii.gz or .nii, or is a folder.
        """
        nifti.write_volume(path, self.labels, self.geometry)


def corrected(classes, faint, post_processing, spacing_mm):
    """Runs a model's post-processing, and tells what it changed.

    Args:
        classes: uint8 [X, Y, Z] canonical classes as the network says.
        faint: whether their enhancing tumour is too little to be one. It is decided on the
            recipe's grid (`PostProcessing.without_faint_enhancement`) and holds on any other.
        post_processing: `PostProcessing`.
        spacing_mm: (x, y, z) voxel spacing in millimetres.

    Returns:
        (uint8 [X, Y, Z]; a short text for each change, volumes on this grid: "ET of 0.3 mL
        replaced by NCR/NET", "small components of WT, 1.2 mL in all, replaced by background").
    """
    changes = []
    voxel = float(np.prod(spacing_mm)) / 1000
    enhancing = classes == spec.ET
    if faint and enhancing.any():
        changes.append(
            f"ET of {np.count_nonzero(enhancing) * voxel:.3g} mL replaced by "
            f"{spec.CLASS_NAMES[spec.NCR]}"
        )
        classes = np.where(enhancing, np.uint8(spec.NCR), classes)
    # Nothing is added to a tumour: its box is all that components are looked for in.
    box = bounding_box(classes != spec.BACKGROUND)
    before = classes[box]
    after = post_processing.without_small_components(before, spacing_mm)
    if after is before:
        return classes, tuple(changes)
    became = after[after != before]
    for region, instead in postprocess.BELOW.items():
        if count := np.count_nonzero(became == instead):
            changes.append(
                f"small components of {region}, {count * voxel:.3g} mL in all, replaced "
                f"by {spec.CLASS_NAMES[instead]}"
            )
    classes = classes.copy()
    classes[box] = after
    return classes, tuple(changes)
