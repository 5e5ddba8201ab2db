"""Evaluates a SavedModel in native space: metrics, a report, segmentations.

Usage:
  python tools/evaluate.py --model=model/saved_model --data_dir=dataset --fold=0 --output_dir=report
  python tools/evaluate.py --model=model/saved_model --input_dir=cohort --output_dir=report \\
      --write_segmentations

Writes metrics.csv, metrics.json and a self-contained report.html. Every row says whether the case
was used to train or to select the model, or is unseen; the headline counts the unseen alone. Cases
without a mask are segmented without metrics. A case that fails is named and left out; the exit
code is then 1.
"""

import command_line

from brats_tfrecord.report.options import EvaluateOptions


def main(options):
    """Evaluates; returns 0, or 1 if a case failed."""
    from brats_tfrecord.report.evaluate import evaluate  # late: --help needs no TensorFlow

    return 1 if any(row.status == "failed" for row in evaluate(options)) else 0


if __name__ == "__main__":
    command_line.run(main, EvaluateOptions)
