"""Arrays in, numbers out: how well a predicted label map agrees with the truth."""

from brats_tfrecord.metrics.case import METRICS, RULES, RULES_TEXT, case_metrics

__all__ = ["METRICS", "RULES", "RULES_TEXT", "case_metrics"]
