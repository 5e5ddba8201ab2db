"""Lesion-wise metrics: every lesion of the truth is compared with the prediction near it.

The definition is that of BraTS 2023 (Saluja et al., BraTS-2023-Metrics, commit 0e272e6), whose
parameters depend on the tumour (`LesionRules`):

- Components are 26-connected. The truth is dilated with the 18-neighbourhood, once or three times.
  Voxels of the truth within one component of the dilated truth are one lesion, because dilation
  joins parts that belong to one annotated lesion.
- A component of the prediction is matched with every lesion whose dilation it touches. A lesion
  is compared with the union of its matched components; a lesion without any is missed.
- Small lesions are ignored, and components matched with them are not false. Components matched
  with no lesion are false, however small.

HD95 is that of `metrics.elements`. Volumes and distances use the actual voxel spacing, as in the
official code, and the number of dilations does not depend on it: three voxels are 3 mm at BraTS's
1 mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.metrics import elements

PENALTY_MM = 374.0
"""HD95 of a missed or a false lesion."""

_NEIGHBOURS_18 = ndimage.generate_binary_structure(3, 2)
_NEIGHBOURS_26 = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True)
class LesionRules:
    """What counts as a lesion.

    Attributes:
        dilations: dilations of the truth by which its parts are joined and matched, in voxels.
        smallest_mm3: lesions of the truth of this volume or less are ignored.
    """

    dilations: int = 3
    smallest_mm3: float = 50


GLIOMA = LesionRules()
"""Parameters of BraTS-GLI, BraTS-SSA and BraTS-PED."""

MENINGIOMA = LesionRules(dilations=1)
"""Parameters of BraTS-MEN."""

METASTASES = LesionRules(dilations=1, smallest_mm3=2)
"""Parameters of BraTS-MET."""


@dataclass(frozen=True)
class Lesion:
    """Metrics of one lesion of the truth that is not ignored.

    Attributes:
        volume_mm3: volume of the lesion.
        dice: Dice of the lesion and its matched components; 0 if there is none.
        hd95: HD95 in mm of the lesion and its matched components; None if there is none.
    """

    volume_mm3: float
    dice: float
    hd95: float | None


def figures(
    truth: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: Sequence[float],
    rules: LesionRules = GLIOMA,
    whole_hd95: float | None = None,
) -> dict[str, float]:
    """Computes the lesion-wise metrics of one structure.

    Args:
        truth, prediction: bool [X, Y, Z] of one shape. The result does not depend on the width of
            the background around the structure.
        spacing_mm: (x, y, z) voxel spacing in millimetres.
        rules: parameters of the tumour.
        whole_hd95: HD95 in mm of `truth` and `prediction`, if known. It is not computed again
            where the only lesion is matched with every component.

    Returns:
        {"lesion_dice", "lesion_hd95", "lesions", "missed_lesions", "false_lesions"}. The first
        two are means over the lesions of the truth and the false lesions, where missed and false
        lesions count as Dice 0 and HD95 `PENALTY_MM`; without any lesion they are 1 and 0.
        "lesions" is the number of lesions of the truth, missed ones included.
    """
    compared, false = compare_lesions(truth, prediction, spacing_mm, rules, whole_hd95)
    missed = sum(lesion.hd95 is None for lesion in compared)
    total = len(compared) + false
    distances = sum(PENALTY_MM if lesion.hd95 is None else lesion.hd95 for lesion in compared)
    return {
        "lesion_dice": sum(lesion.dice for lesion in compared) / total if total else 1.0,
        "lesion_hd95": (distances + false * PENALTY_MM) / total if total else 0.0,
        "lesions": len(compared),
        "missed_lesions": missed,
        "false_lesions": false,
    }


def compare_lesions(
    truth: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: Sequence[float],
    rules: LesionRules = GLIOMA,
    whole_hd95: float | None = None,
) -> tuple[list[Lesion], int]:
    """Compares every lesion of the truth with the components of the prediction that match it.

    The arguments are those of `figures`.

    Returns:
        The lesions, in C order of the first voxels of their dilations, and the number of false
        lesions.
    """
    # Room for the dilations. It joins no lesions that would be separate without it: a path
    # outside the volume, clamped to the edge, is a path within the same dilations.
    truth, prediction = (np.pad(mask, rules.dilations) for mask in (truth, prediction))
    components, count = ndimage.label(prediction, _NEIGHBOURS_26)
    if not truth.any():
        return [], count
    box = tuple(
        slice(side.start - rules.dilations, side.stop + rules.dilations)
        for side in bounding_box(truth)
    )
    dilated = ndimage.binary_dilation(truth[box], _NEIGHBOURS_18, iterations=rules.dilations)
    # A component of the dilated truth is the dilation of one lesion.
    dilations, lesions = ndimage.label(dilated, _NEIGHBOURS_26)
    labels = np.where(truth[box], dilations, 0)
    lesion_ids, component_ids = _overlapping(dilations, components[box], count)
    volumes_mm3 = np.bincount(labels.ravel(), minlength=lesions + 1) * np.prod(spacing_mm)
    compared = []
    for number in range(1, lesions + 1):
        if volumes_mm3[number] <= rules.smallest_mm3:
            continue
        lesion = np.zeros_like(truth)
        lesion[box] = labels == number
        matched = np.zeros(count + 1, bool)
        matched[component_ids[lesion_ids == number]] = True
        hd95 = whole_hd95 if lesions == 1 and matched[1:].all() else None
        volume_mm3 = float(volumes_mm3[number])
        compared.append(_compare(lesion, matched[components], spacing_mm, volume_mm3, hd95))
    return compared, count - len(np.unique(component_ids))


def _overlapping(dilations, components, count):
    """Pairs of a lesion and a component whose labels share a voxel, two int arrays."""
    both = (dilations > 0) & (components > 0)
    keys = np.unique(dilations[both].astype(np.int64) * (count + 1) + components[both])
    return np.divmod(keys, count + 1)


def _compare(lesion, prediction, spacing_mm, volume_mm3, hd95):
    """Computes Dice and, if `hd95` is None, HD95 of a lesion and its matched components."""
    if not prediction.any():
        return Lesion(volume_mm3, 0.0, None)
    common = np.count_nonzero(lesion & prediction)
    dice = 2 * common / (np.count_nonzero(lesion) + np.count_nonzero(prediction))
    if hd95 is None:
        hd95 = elements.hd95(elements.element_distances(lesion, prediction, spacing_mm))
    return Lesion(volume_mm3, dice, hd95)
