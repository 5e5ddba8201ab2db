"""The figures of one case, by a stated rule for regions that are empty."""

import numpy as np

from brats_tfrecord import spec
from brats_tfrecord.metrics import overlap, surface

RULES = "brats2020"
"""Name of the rule set that `case_metrics` follows; reports print it with every table."""

HD95_ONE_EMPTY_MM = 373.12866
"""BraTS 2020: HD95 where one mask alone is empty, the diagonal of 240 x 240 x 155 at 1 mm."""

RULES_TEXT = (
    "BraTS 2020. Regions: WT = NCR/NET + ED + ET, TC = NCR/NET + ET, ET alone. Truth and "
    "prediction both empty: Dice 1, HD95 0 mm; one of them empty: Dice 0, "
    f"HD95 {HD95_ONE_EMPTY_MM} mm. Sensitivity is undefined, and left out of the means, where the "
    "truth is empty; specificity counts every voxel of the volume. HD95 is the 95th percentile of "
    "the surface distances of both directions pooled, between centres of surface voxels "
    "(6-neighbourhood, as in MedPy), in millimetres."
)

METRICS = ("dice", "hd95", "sensitivity", "specificity")
"""Keys of a region's figures, in the order of tables."""


def case_metrics(truth, prediction, spacing_mm):
    """Compares two label maps region by region, by the rules of BraTS 2020.

    Args:
        truth, prediction: integer [X, Y, Z] of one shape, canonical class ids (`spec`).
        spacing_mm: (x, y, z) voxel spacing in millimetres.

    Returns:
        {"WT": {"dice", "hd95", "sensitivity", "specificity"}, "TC": ..., "ET": ...}; hd95 in mm.
        Both masks of a region empty: Dice 1, HD95 0. One empty: Dice 0, HD95
        `HD95_ONE_EMPTY_MM`. Sensitivity is None where the truth is empty, and specificity where
        it fills the volume: BraTS gives NaN there, which JSON cannot hold.

    Raises:
        ValueError: shapes differ or are not 3-D, a dtype is not integer, a value is no class id,
            or the spacing is not three positive lengths.
    """
    truth, prediction = _checked("truth", truth), _checked("prediction", prediction)
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth has shape {truth.shape}, prediction {prediction.shape}; expected one shape"
        )
    spacing_mm = _checked_spacing(spacing_mm)
    voxels = truth.size
    # Outside the tumour's box both are background: those voxels are counted, not visited.
    box = surface.bounding_box((truth | prediction) != spec.BACKGROUND)
    truth, prediction = truth[box], prediction[box]
    matrix = overlap.confusion(truth, prediction, len(spec.CLASS_NAMES))
    matrix[spec.BACKGROUND, spec.BACKGROUND] += voxels - truth.size
    return {
        region: _region_metrics(
            overlap.region_counts(matrix, classes),
            np.isin(truth, classes),
            np.isin(prediction, classes),
            spacing_mm,
        )
        for region, classes in spec.REGIONS.items()
    }


def _region_metrics(counts, truth, prediction, spacing_mm):
    dice = overlap.dice(counts)
    return {
        "dice": 1.0 if dice is None else dice,
        "hd95": _hd95(truth, prediction, spacing_mm),
        "sensitivity": overlap.sensitivity(counts),
        "specificity": overlap.specificity(counts),
    }


def _hd95(truth, prediction, spacing_mm):
    empty = [not truth.any(), not prediction.any()]
    if all(empty):
        return 0.0
    if any(empty):
        return HD95_ONE_EMPTY_MM
    return surface.hd95(surface.surface_distances(truth, prediction, spacing_mm))


def _checked(name, classes):
    classes = np.asarray(classes)
    if classes.ndim != 3 or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(
            f"{name} is {classes.dtype} of shape {classes.shape}; expected integer class ids "
            "[X, Y, Z]"
        )
    highest = len(spec.CLASS_NAMES) - 1
    if classes.size and not (0 <= classes.min() and classes.max() <= highest):
        raise ValueError(
            f"{name} holds values {classes.min()} to {classes.max()}; expected canonical class "
            f"ids 0 to {highest}"
        )
    return classes.astype(np.uint8, copy=False)


def _checked_spacing(spacing_mm):
    spacing = tuple(float(length) for length in spacing_mm)
    if len(spacing) != 3 or not all(0 < length < np.inf for length in spacing):
        raise ValueError(f"spacing_mm is {spacing}; expected three positive lengths in mm")
    return spacing
