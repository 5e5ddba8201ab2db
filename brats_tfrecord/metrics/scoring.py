"""Metrics of one case, by structure, under a rule set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from brats_tfrecord import spec
from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.metrics import elements, lesions, overlap, surface
from brats_tfrecord.metrics.rules import RULE_SETS, SURFACE_DICE_MM
from brats_tfrecord.spec import members, structures


def case_metrics(
    truth: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: Sequence[float],
    rules: str = "brats2020",
    classes: int = 4,
) -> dict[str, dict[str, float | None]]:
    """Compares a predicted label map with the true one.

    Args:
        truth, prediction: integer [X, Y, Z] of one shape, canonical class ids (`spec`).
        spacing_mm: (x, y, z) voxel spacing in millimetres.
        rules: name of a rule set of `RULE_SETS`.
        classes: number of classes, background included, which determines the structures. Class
            ids of `classes` or more belong to no structure.

    Returns:
        {structure: {metric: value}} for `structures(classes)` and the `metrics` of the rule set:
        dice, nsd_1mm, nsd_2mm, sensitivity and specificity from 0 to 1; hd95, hd95_pooled, hd100
        and assd in mm; volume_error_ml in mL, prediction minus truth; the lesion-wise metrics of
        `lesions.figures`. Values are float, or int for counts. Undefined values are None (JSON
        has no NaN); the rule set determines which values are undefined for empty masks.
        Specificity is None where the truth fills the volume.

    Raises:
        ValueError: shapes differ or are not 3-D, a dtype is not integer, a value is not a class
            id, the spacing is not three positive lengths, or the rule set is unknown.
    """
    if rules not in RULE_SETS:
        raise ValueError(f"rules is {rules!r}. Available: {', '.join(RULE_SETS)}")
    rule_set, names = RULE_SETS[rules], structures(classes)
    truth, prediction = _checked("truth", truth), _checked("prediction", prediction)
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth has shape {truth.shape}, prediction {prediction.shape}; expected one shape"
        )
    spacing_mm = _checked_spacing(spacing_mm)
    # Outside this box both maps are background; it is enough to count those voxels.
    box = bounding_box(truth, prediction)
    voxels, truth, prediction = truth.size, truth[box], prediction[box]
    matrix = overlap.confusion(truth, prediction, len(spec.CLASS_NAMES))
    matrix[spec.BACKGROUND, spec.BACKGROUND] += voxels - truth.size
    table = code_table(names)
    truth, prediction = table[truth], table[prediction]
    surfaces = _surface_metrics(truth, prediction, spacing_mm, rule_set)
    result = {}
    for bit, name in enumerate(names):
        counts = overlap.region_counts(matrix, members(name))
        figures = _overlap_metrics(counts, spacing_mm) | surfaces.get(1 << bit, _NO_SURFACE)
        if bool(counts.truth) != bool(counts.prediction):
            figures |= dict.fromkeys(SURFACE_DICE_MM, 0.0)
        if rule_set.lesions is not None:
            masks = truth & 1 << bit != 0, prediction & 1 << bit != 0
            figures |= lesions.figures(*masks, spacing_mm, rule_set.lesions, figures["hd95"])
        figures = rule_set.filled(figures, not counts.truth, not counts.prediction)
        result[name] = {metric: figures[metric] for metric in rule_set.metrics}
    return result


_NO_SURFACE = dict.fromkeys(("hd95", "hd95_pooled", "hd100", "assd", *SURFACE_DICE_MM))
"""The surface metrics of a structure that is empty in a mask."""


def _overlap_metrics(counts, spacing_mm):
    return {
        "dice": overlap.dice(counts),
        "sensitivity": overlap.sensitivity(counts),
        "specificity": overlap.specificity(counts),
        "volume_error_ml": overlap.volume_error_ml(counts, spacing_mm),
    }


def _surface_metrics(truth, prediction, spacing_mm, rule_set):
    """{1 << b: surface metrics of structure b}, of the structures that are empty in neither map.

    Args:
        truth, prediction: uint8 codes [X, Y, Z]; bit b is set where a voxel is in structure b.
        spacing_mm: (x, y, z) voxel spacing in millimetres.
        rule_set: the `RuleSet`, which decides between surface voxels and surface elements.
    """
    if rule_set.by_area:
        by_area = elements.structure_elements(truth, prediction, spacing_mm)
        return {bit: _element_metrics(distances) for bit, distances in by_area.items()}
    by_voxel = surface.structure_distances(truth, prediction, spacing_mm)
    surface_dice = elements.structure_surface_dice(
        truth, prediction, spacing_mm, list(SURFACE_DICE_MM.values())
    )
    return {
        bit: _voxel_metrics(distances, rule_set) | dict(zip(SURFACE_DICE_MM, surface_dice[bit]))
        for bit, distances in by_voxel.items()
    }


def _element_metrics(distances):
    return {
        "hd95": elements.hd95(distances),
        "hd100": elements.hd100(distances),
        "assd": elements.assd(distances),
        **{
            name: elements.surface_dice(distances, tolerance_mm)
            for name, tolerance_mm in SURFACE_DICE_MM.items()
        },
    }


def _voxel_metrics(distances, rule_set):
    result = {
        "hd95": surface.hd95(distances),
        "hd100": surface.hd100(distances),
        "assd": surface.assd(distances),
    }
    if "hd95_pooled" in rule_set.metrics:
        result["hd95_pooled"] = surface.hd95_pooled(distances)
    return result


def _checked(name, classes):
    classes = np.asarray(classes)
    if classes.ndim != 3 or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(
            f"{name} is {classes.dtype} of shape {classes.shape}; expected integer class ids "
            "[X, Y, Z]"
        )
    highest = len(spec.CLASS_NAMES) - 1
    if classes.size and not (classes.min() >= 0 and classes.max() <= highest):
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


def code_table(names: Sequence[str]) -> np.ndarray:
    """Returns the code of every class, uint8 [classes]: bit b is set if it is in structure b."""
    table = np.zeros(len(spec.CLASS_NAMES), np.uint8)
    for bit, name in enumerate(names):
        table[list(members(name))] |= np.uint8(1 << bit)
    return table
