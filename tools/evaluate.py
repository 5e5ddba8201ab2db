"""Evaluates a SavedModel in native space: metrics, a report, segmentations.

Usage:
  python tools/evaluate.py --model=model/saved_model --data_dir=dataset --fold=0 --output_dir=report
  python tools/evaluate.py --model=model/saved_model --input_dir=cohort --output_dir=report \\
      --write_segmentations
  python tools/evaluate.py --model=new/saved_model --data_dir=dataset --fold=0 \\
      --output_dir=report_new --compare=report/metrics.json

Writes metrics.csv, metrics.json and a self-contained report.html to OUTPUT_DIR. Every row says
whether the case was used to train or to select the model, or is unseen; the headline counts the
unseen alone. Means come with 95 % confidence intervals, bootstrapped over patients. Cases without
a mask are segmented without metrics.

Each finished case is kept at once: an evaluation that was stopped or killed goes on where it was
when the same command is run again. A case that fails is named on stderr and in the report, the
others are done, and the exit code is 1.
"""

import command_line

from brats_tfrecord.evaluation.evaluate_options import EvaluateOptions


def main(options):
    """Evaluates; returns 0, or 1 if a case failed."""
    from brats_tfrecord.workflow import evaluate_and_report  # late: --help needs no TensorFlow

    return 1 if any(row.status == "failed" for row in evaluate_and_report(options)) else 0


if __name__ == "__main__":
    command_line.run(main, EvaluateOptions)
