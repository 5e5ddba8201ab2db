"""Evaluates a SavedModel on the original grid of each case: metrics, a report, segmentations.

Usage:
  python tools/evaluate.py --model=model/saved_model --data_dir=dataset --fold=1 --output_dir=report
  python tools/evaluate.py --model=model/saved_model --input_dir=cohort --output_dir=report \\
      --write_segmentations
  python tools/evaluate.py --model=new/saved_model --data_dir=dataset --fold=1 \\
      --output_dir=report_new --compare=report/metrics.json

Writes metrics.csv, metrics.json and a self-contained report.html to OUTPUT_DIR. Every row states
whether the case was used to train or to select the model, or is unseen; the headline covers the
unseen cases only. Means have 95 % confidence intervals, bootstrapped over patients. Cases without
a mask are segmented, but have no metrics.

Each finished case is saved at once: run the same command again to resume an evaluation that was
stopped or killed. If a case fails, the reason is printed and included in the report, the other
cases are evaluated, and the exit code is 1.
"""

import command_line

from brats_tfrecord.evaluation.evaluate_options import EvaluateOptions
from brats_tfrecord.quiet_import import quiet_import


def main(options: EvaluateOptions) -> int:
    """Runs the evaluation; returns 0, or 1 if a case failed."""
    # Imported late, so that --help does not load TensorFlow.
    with quiet_import():
        from brats_tfrecord.workflow import evaluate_and_report

    return 1 if any(row.status == "failed" for row in evaluate_and_report(options)) else 0


if __name__ == "__main__":
    command_line.run(main, EvaluateOptions)
