"""Rule sets: which figures a table shows, and what they are where a mask is empty.

The figures themselves are the same under every set. Where one has no value (a ratio without a
denominator, a distance to nothing) challenges disagree on what to write down, and scores change
by it more than by most networks: each set's text is printed with every table.
"""

from dataclasses import dataclass, field

from brats_tfrecord.metrics.lesions import DILATIONS, PENALTY_MM, SMALLEST_MM3

HD95_ONE_EMPTY_MM = 373.12866
"""BraTS 2020: HD95 where one mask alone is empty, the diagonal of 240 x 240 x 155 at 1 mm."""

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
"""Headings of tables, by metric key."""

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
"""Decimals that tables show, by metric key; counts have one, for means of them."""

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
    """One challenge's way to score.

    Attributes:
        name: as flags spell it.
        text: the sentences that are printed with every table.
        metrics: keys of a structure's figures, in the order of tables.
        both_empty, truth_empty, prediction_empty: figures where both masks are empty or one alone
            is, by metric key. What they do not name keeps its value, None where it has none.
    """

    name: str
    text: str
    metrics: tuple[str, ...]
    both_empty: dict[str, float] = field(default_factory=dict)
    truth_empty: dict[str, float] = field(default_factory=dict)
    prediction_empty: dict[str, float] = field(default_factory=dict)

    def filled(self, figures, truth_empty, prediction_empty):
        """The figures of one structure, with this set's values where masks are empty."""
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
            f"of {SMALLEST_MM3} mm³ or less are left out; a missed lesion, and a predicted "
            f"component at no lesion, score Dice 0 and HD95 {PENALTY_MM:g} mm; the mean over all "
            "is the case's score, Dice 1 and HD95 0 mm if there is none. The official code takes "
            "HD95 between surface elements of DeepMind's surface-distance; here it is as below. "
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
            "nnU-Net (the evaluation of its first version). Nothing is filled in: what has no "
            "value is left out of the means. Both masks empty: Dice, distances and sensitivity "
            "have none; truth alone empty: Dice 0, distances and sensitivity have none; "
            "prediction alone empty: Dice and sensitivity 0, distances have none. A missed or a "
            "false structure so costs no distance." + _DEFINITIONS,
            _WHOLE,
        ),
    )
}
"""The rule sets by name; the first is the default."""
