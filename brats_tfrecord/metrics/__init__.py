"""Agreement of a predicted label map with the truth: arrays in, numbers out."""

from brats_tfrecord.metrics.overlap import confusion
from brats_tfrecord.metrics.rules import METRIC_DECIMALS, METRIC_TITLES, RULE_SETS, RuleSet
from brats_tfrecord.metrics.scoring import case_metrics
from brats_tfrecord.spec import structures

__all__ = [
    "METRIC_DECIMALS",
    "METRIC_TITLES",
    "RULE_SETS",
    "RuleSet",
    "case_metrics",
    "confusion",
    "structures",
]
