"""Rule sets: the metrics of a table, their definitions, and their values where a mask is empty.

Challenges disagree on the definition of HD95, on what counts as a lesion, and on the value of a
metric that is undefined (a ratio without a denominator, the distance to an empty mask). Each of
these can change scores more than the choice of the network. The text of the rule set is therefore
printed with every table.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from brats_tfrecord.metrics.lesions import GLIOMA, MENINGIOMA, METASTASES, PENALTY_MM, LesionRules
from brats_tfrecord.wording import plural

HD95_ONE_EMPTY_MM = 373.12866
"""HD95 of BraTS 2020 where one mask is empty: the diagonal of the volume, 240 x 240 x 155 mm."""

METRIC_TITLES = {
    "dice": "Dice",
    "hd95": "HD95 (mm)",
    "hd95_pooled": "HD95 pooled (mm)",
    "hd100": "HD100 (mm)",
    "assd": "ASSD (mm)",
    "nsd_1mm": "Surface Dice 1 mm",
    "nsd_2mm": "Surface Dice 2 mm",
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
    "hd95_pooled": 2,
    "hd100": 2,
    "assd": 2,
    "nsd_1mm": 3,
    "nsd_2mm": 3,
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

SURFACE_DICE_MM = {"nsd_1mm": 1.0, "nsd_2mm": 2.0}
"""Metric -> tolerance in mm of the normalised surface Dice."""

_DISTANCES = ("hd95", "hd100", "assd")
_OVERLAPS = ("sensitivity", "specificity", "volume_error_ml")
_WHOLE = ("dice", *_DISTANCES, *SURFACE_DICE_MM, *_OVERLAPS)
_LESION_WISE = ("lesion_dice", "lesion_hd95", "lesions", "missed_lesions", "false_lesions")

_REGIONS = (
    " Regions: WT = NCR/NET + ED + ET, TC = NCR/NET + ET, ET alone; classes follow the same "
    "rules. Specificity counts every voxel of the volume. Volume error is prediction minus truth. "
    "Surface Dice is the share of the area of both surfaces that lies within 1 or 2 mm of the "
    "other surface (Nikolov et al. 2021), from surface elements weighted by their area, as in "
    "DeepMind's surface-distance."
)
_BY_VOXELS = (
    " HD95 is the larger of the two directed 95th percentiles of the surface distances (Menze et "
    "al. 2015), HD100 their maximum and ASSD the mean of both directions pooled, between centres "
    "of surface voxels (6-neighbourhood, as in MedPy), in millimetres."
)
_BY_AREA = (
    " HD95, of lesions too, is the larger of the two directed 95th percentiles of the distances "
    "between surface elements weighted by their area, as in the official code (DeepMind's "
    "surface-distance), HD100 their maximum and ASSD their mean weighted by area, in millimetres."
)


@dataclass(frozen=True)
class RuleSet:
    """The scoring rules of one challenge.

    Attributes:
        name: value of the command-line flag.
        text: explanation that is printed with every table.
        metrics: metrics of a structure, in the order of tables.
        by_area: whether surface distances run between surface elements weighted by their area
            (`metrics.elements`) instead of between surface voxels (`metrics.surface`).
        lesions: what counts as a lesion; None without lesion-wise metrics.
        both_empty, truth_empty, prediction_empty: {metric: value} where both masks are empty or
            only one is. Metrics that are not listed keep their value, None if undefined.
    """

    name: str
    text: str
    metrics: tuple[str, ...]
    by_area: bool = False
    lesions: LesionRules | None = None
    both_empty: dict[str, float] = field(default_factory=dict)
    truth_empty: dict[str, float] = field(default_factory=dict)
    prediction_empty: dict[str, float] = field(default_factory=dict)

    @property
    def hd95_definition(self) -> str:
        """The definition of HD95 in short, to be stored with figures."""
        surface = "area-weighted surface elements" if self.by_area else "surface voxels"
        return f"larger directed percentile, {surface}"

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


_PERFECT = {"dice": 1.0, **_all_distances(0.0), **dict.fromkeys(SURFACE_DICE_MM, 1.0)}


def _brats2023(suffix, tumours, lesions):
    """The rules of BraTS 2023 for these tumours."""
    return RuleSet(
        f"brats2023{suffix}",
        f"BraTS 2023 ({tumours}). Lesion-wise: components are 26-connected; parts of the truth "
        f"that meet when it is dilated {plural(lesions.dilations, 'time')} (18-neighbourhood) are "
        "one lesion, compared with all predicted components that touch its dilation; lesions of "
        f"the truth of {lesions.smallest_mm3:g} mm³ or less are ignored; missed lesions, and "
        "predicted components that touch no lesion's dilation, score Dice 0 and HD95 "
        f"{PENALTY_MM:g} mm; the score of a case is the mean over all of them, Dice 1 and HD95 "
        "0 mm if there are none. Whole structures: both empty: Dice and surface Dice 1, distances "
        "0 mm, sensitivity 1; one of them empty: Dice and surface Dice 0, distances "
        f"{PENALTY_MM:g} mm (BraTS sets HD95; HD100 and ASSD follow it here); sensitivity 0 where "
        "the truth alone is empty." + _BY_AREA + _REGIONS,
        _LESION_WISE + _WHOLE,
        by_area=True,
        lesions=lesions,
        both_empty={**_PERFECT, "sensitivity": 1.0},
        truth_empty={**_all_distances(PENALTY_MM), "sensitivity": 0.0},
        prediction_empty=_all_distances(PENALTY_MM),
    )


RULE_SETS = {
    rule_set.name: rule_set
    for rule_set in (
        RuleSet(
            "brats2020",
            "BraTS 2020 (glioma). Truth and prediction both empty: Dice and surface Dice 1, "
            "distances 0 mm; one of them empty: Dice and surface Dice 0, distances "
            f"{HD95_ONE_EMPTY_MM} mm (BraTS sets HD95; HD100 and ASSD follow it here). "
            "Sensitivity is undefined, and left out of the means, where the truth is empty."
            + _BY_VOXELS
            + _REGIONS,
            _WHOLE,
            both_empty=_PERFECT,
            truth_empty=_all_distances(HD95_ONE_EMPTY_MM),
            prediction_empty=_all_distances(HD95_ONE_EMPTY_MM),
        ),
        _brats2023("", "glioma, Africa and paediatric", GLIOMA),
        _brats2023("-men", "meningioma", MENINGIOMA),
        _brats2023("-met", "metastases", METASTASES),
        RuleSet(
            "nnunet",
            "nnU-Net (the evaluation of its first version). Undefined values are left out of the "
            "means. Both masks empty: Dice, surface Dice, distances and sensitivity are undefined; "
            "only the truth empty: Dice and surface Dice 0, distances and sensitivity are "
            "undefined; only the prediction empty: Dice, surface Dice and sensitivity 0, distances "
            "are undefined. A missed or a false structure therefore does not change the mean "
            "distances. nnU-Net's own HD95 is the pooled one, MedPy's: the 95th percentile of the "
            "distances of both directions together." + _BY_VOXELS + _REGIONS,
            ("dice", "hd95", "hd95_pooled", "hd100", "assd", *SURFACE_DICE_MM, *_OVERLAPS),
        ),
    )
}
"""The rule sets by name; the first is the default."""
