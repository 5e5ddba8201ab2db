"""Rule sets: the metrics of a table, and their values where a mask is empty.

The metrics are computed in the same way under every rule set. Challenges disagree on the value of
a metric that is undefined (a ratio without a denominator, the distance to an empty mask), and this
can change scores more than the choice of the network. The text of the rule set is therefore
printed with every table.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from brats_tfrecord.metrics.lesions import DILATIONS, PENALTY_MM, SMALLEST_MM3

HD95_ONE_EMPTY_MM = 373.12866
"""HD95 of BraTS 2020 where one mask is empty: the diagonal of the volume, 240 x 240 x 155 mm."""

METRIC_TITLES = {
    "dice": "Dice",
    "hd95": "HD95 (mm)",
    "hd100": "HD100 (mm)",
    "assd": "ASSD (mm)",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "volume_error_ml": "Volume error (mL)",
    "lesion_dice": "Lesion-wise Dice",
    "lesion_hd95": "Lesion-wise HD95 (mm)",
    "lesions": "Lesions",
    "missed_lesions": "Missed lesions",
    "false_lesions": "False lesions",
}
"""Table heading of every metric."""

METRIC_DECIMALS = {
    "dice": 3,
    "hd95": 2,
    "hd100": 2,
    "assd": 2,
    "sensitivity": 3,
    "specificity": 4,
    "volume_error_ml": 2,
    "lesion_dice": 3,
    "lesion_hd95": 2,
    "lesions": 1,
    "missed_lesions": 1,
    "false_lesions": 1,
}
"""Decimals shown in tables. Counts have one decimal, for the mean over cases."""

_DISTANCES = ("hd95", "hd100", "assd")
_WHOLE = ("dice", *_DISTANCES, "sensitivity", "specificity", "volume_error_ml")
_LESION_WISE = ("lesion_dice", "lesion_hd95", "lesions", "missed_lesions", "false_lesions")

_DEFINITIONS = (
    " Regions: WT = NCR/NET + ED + ET, TC = NCR/NET + ET, ET alone; classes follow the same "
    "rules. HD95 is the 95th percentile, HD100 the maximum and ASSD the mean of the surface "
    "distances of both directions pooled, between centres of surface voxels (6-neighbourhood, as "
    "in MedPy), in millimetres. Specificity counts every voxel of the volume. Volume error is "
    "prediction minus truth."
)


@dataclass(frozen=True)
class RuleSet:
    """The scoring rules of one challenge.

    Attributes:
        name: value of the command-line flag.
        text: explanation that is printed with every table.
        metrics: metrics of a structure, in the order of tables.
        both_empty, truth_empty, prediction_empty: {metric: value} where both masks are empty or
            only one is. Metrics that are not listed keep their value, None if undefined.
    """

    name: str
    text: str
    metrics: tuple[str, ...]
    both_empty: dict[str, float] = field(default_factory=dict)
    truth_empty: dict[str, float] = field(default_factory=dict)
    prediction_empty: dict[str, float] = field(default_factory=dict)

    def filled(
        self, figures: dict[str, float | None], truth_empty: bool, prediction_empty: bool
    ) -> dict[str, float | None]:
        """Returns the metrics of one structure with the values of this set for empty masks."""
        if truth_empty and prediction_empty:
            return figures | self.both_empty
        if truth_empty:
            return figures | self.truth_empty
        if prediction_empty:
            return figures | self.prediction_empty
        return figures


def _all_distances(length_mm):
    return dict.fromkeys(_DISTANCES, length_mm)


RULE_SETS = {
    rule_set.name: rule_set
    for rule_set in (
        RuleSet(
            "brats2020",
            "BraTS 2020. Truth and prediction both empty: Dice 1, distances 0 mm; one of them "
            f"empty: Dice 0, distances {HD95_ONE_EMPTY_MM} mm (BraTS sets HD95; HD100 and ASSD "
            "follow it here). Sensitivity is undefined, and left out of the means, where the "
            "truth is empty." + _DEFINITIONS,
            _WHOLE,
            both_empty={"dice": 1.0, **_all_distances(0.0)},
            truth_empty=_all_distances(HD95_ONE_EMPTY_MM),
            prediction_empty=_all_distances(HD95_ONE_EMPTY_MM),
        ),
        RuleSet(
            "brats2023",
            "BraTS 2023 (glioma). Lesion-wise: components are 26-connected; parts of the truth "
            f"that meet when it is dilated {DILATIONS} times (18-neighbourhood) are one lesion, "
            "compared with all predicted components that touch its dilation; lesions of the truth "
            f"of {SMALLEST_MM3} mm³ or less are ignored; missed lesions, and predicted components "
            f"that touch no lesion's dilation, score Dice 0 and HD95 {PENALTY_MM:g} mm; the score "
            "of a case is the mean over all of them, Dice 1 and HD95 0 mm if there are none. The "
            "official code computes HD95 from the surface elements of DeepMind's "
            "surface-distance; here it is computed as below. "
            "Whole structures: both empty: Dice 1, distances 0 mm, sensitivity 1; one of them "
            f"empty: Dice 0, distances {PENALTY_MM:g} mm (BraTS sets HD95; HD100 and ASSD follow "
            "it here); sensitivity 0 where the truth alone is empty." + _DEFINITIONS,
            _LESION_WISE + _WHOLE,
            both_empty={"dice": 1.0, **_all_distances(0.0), "sensitivity": 1.0},
            truth_empty={**_all_distances(PENALTY_MM), "sensitivity": 0.0},
            prediction_empty=_all_distances(PENALTY_MM),
        ),
        RuleSet(
            "nnunet",
            "nnU-Net (the evaluation of its first version). Undefined values are left out of the "
            "means. Both masks empty: Dice, distances and sensitivity are undefined; only the "
            "truth empty: Dice 0, distances and sensitivity are undefined; only the prediction "
            "empty: Dice and sensitivity 0, distances are undefined. A missed or a false "
            "structure therefore does not change the mean distances." + _DEFINITIONS,
            _WHOLE,
        ),
    )
}
"""The rule sets by name; the first is the default."""
