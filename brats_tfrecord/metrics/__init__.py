"""Arrays in, numbers out: how well a predicted label map agrees with the truth."""

from brats_tfrecord.metrics.overlap import confusion
from brats_tfrecord.metrics.rules import METRIC_DECIMALS, METRIC_TITLES, RULE_SETS, RuleSet
from brats_tfrecord.metrics.scoring import case_metrics
from brats_tfrecord.metrics.structures import structures

__all__ = [
    "METRIC_DECIMALS",
    "METRIC_TITLES",
    "RULE_SETS",
    "RuleSet",
    "case_metrics",
    "confusion",
    "structures",
]
