"""Lesion-wise figures: each lesion of the truth is judged by what was predicted at it.

The definition of BraTS 2023 (Saluja et al., BraTS-2023-Metrics, commit 0e272e6, challenge GLI):

- Components are 26-connected. The truth is dilated three times by the 18-neighbourhood; voxels of
  the truth within one component of the dilated truth are one lesion, for dilation bridges what
  an annotator left apart.
- A component of the prediction belongs to every lesion whose dilation it touches. A lesion is
  compared with all its components together; one without any is missed.
- Lesions of 50 mm³ or less are left out, but components at them are not false. Components at no
  lesion are false, however small.

Two things differ from that code. Distances are between surfaces as `metrics.surface` defines
them (there: between surface elements of DeepMind's surface-distance, the larger of both
directions' percentiles). And volumes and distances are in mm of the actual spacing, as there, but
the number of dilations is not adapted to it, as there: three voxels are 3 mm at BraTS's 1 mm.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.metrics import surface

SMALLEST_MM3 = 50
"""Lesions of the truth of this volume or less are left out."""

PENALTY_MM = 374.0
"""HD95 of a missed or a false lesion."""

DILATIONS = 3

_NEIGHBOURS_18 = ndimage.generate_binary_structure(3, 2)
_NEIGHBOURS_26 = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True)
class Lesion:
    """A lesion of the truth, larger than `SMALLEST_MM3`.

    Attributes:
        volume_mm3: its volume.
        dice: Dice of the lesion and the predicted components at it; 0 if there is none.
        hd95: their HD95 in mm; None if there is no component.
    """

    volume_mm3: float
    dice: float
    hd95: float | None


def figures(truth, prediction, spacing_mm, whole_hd95=None):
    """The lesion-wise figures of one structure.

    Args:
        truth, prediction: bool [X, Y, Z] of one shape; air around them changes nothing.
        spacing_mm: (x, y, z) voxel spacing in millimetres.
        whole_hd95: HD95 in mm of the masks as they are, if it is known: it saves measuring where
            one lesion and the components at it are all there is.

    Returns:
        {"lesion_dice", "lesion_hd95", "lesions", "missed_lesions", "false_lesions"}. The first
        two are means over the lesions of the truth and the false ones: missed and false ones
        count as Dice 0 and HD95 `PENALTY_MM`. With neither: Dice 1 and HD95 0. `lesions` counts
        those of the truth, the missed ones included.
    """
    found, false = compare_lesions(truth, prediction, spacing_mm, whole_hd95)
    missed = sum(lesion.hd95 is None for lesion in found)
    judged = len(found) + false
    distances = sum(PENALTY_MM if lesion.hd95 is None else lesion.hd95 for lesion in found)
    return {
        "lesion_dice": sum(lesion.dice for lesion in found) / judged if judged else 1.0,
        "lesion_hd95": (distances + false * PENALTY_MM) / judged if judged else 0.0,
        "lesions": len(found),
        "missed_lesions": missed,
        "false_lesions": false,
    }


def compare_lesions(truth, prediction, spacing_mm, whole_hd95=None):
    """Returns the list of `Lesion`, in C order of their dilations, and the false lesions' number.

    Arguments as of `figures`.
    """
    # With room to dilate, as if the volume went on: no lesions join beyond its edge that do not
    # join within, for a path out there, clamped to the edge, is a path of the same dilations.
    truth, prediction = (np.pad(mask, DILATIONS) for mask in (truth, prediction))
    components, count = ndimage.label(prediction, _NEIGHBOURS_26)
    if not truth.any():
        return [], count
    box = tuple(
        slice(side.start - DILATIONS, side.stop + DILATIONS) for side in bounding_box(truth)
    )
    dilated = ndimage.binary_dilation(truth[box], _NEIGHBOURS_18, iterations=DILATIONS)
    # A component of the dilated truth is the dilation of its lesion: what it overlaps, matches.
    extents, lesions = ndimage.label(dilated, _NEIGHBOURS_26)
    owners = np.where(truth[box], extents, 0)
    matches = _pairs(extents, components[box], count)
    volumes_mm3 = np.bincount(owners.ravel(), minlength=lesions + 1) * np.prod(spacing_mm)
    found = []
    for number in range(1, lesions + 1):
        if volumes_mm3[number] <= SMALLEST_MM3:
            continue
        lesion = np.zeros_like(truth)
        lesion[box] = owners == number
        chosen = np.zeros(count + 1, bool)
        chosen[matches[1][matches[0] == number]] = True
        known = whole_hd95 if lesions == 1 and chosen[1:].all() else None
        found.append(_compare(lesion, chosen[components], spacing_mm, volumes_mm3[number], known))
    return found, count - len(np.unique(matches[1]))


def _pairs(extents, components, count):
    """The pairs of labels that share a voxel: two int arrays."""
    both = (extents > 0) & (components > 0)
    keys = np.unique(extents[both].astype(np.int64) * (count + 1) + components[both])
    return np.divmod(keys, count + 1)


def _compare(lesion, prediction, spacing_mm, volume_mm3, hd95):
    if not prediction.any():
        return Lesion(float(volume_mm3), 0.0, None)
    common = np.count_nonzero(lesion & prediction)
    dice = 2 * common / (np.count_nonzero(lesion) + np.count_nonzero(prediction))
    if hd95 is None:
        hd95 = surface.hd95(surface.surface_distances(lesion, prediction, spacing_mm))
    return Lesion(float(volume_mm3), dice, hd95)
