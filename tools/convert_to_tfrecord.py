"""Converts a cohort of NIfTI cases into sharded TFRecords, once.

Usage:
  python tools/convert_to_tfrecord.py --input_dir=MICCAI_BraTS2020_TrainingData --output_dir=dataset
  python tools/convert_to_tfrecord.py --input_dir=cohort --output_dir=dataset --jobs=8 --folds=5
  python tools/convert_to_tfrecord.py --input_dir=cohort --output_dir=dataset \\
      --bias_correction=ants   # the documented recipe, by ANTsPy itself

Every case is bias-corrected, cropped, normalised and written with its packed one-hot mask. A case
that fails is named and left out; the rest goes on, and the exit code is then 1.
"""

import command_line

from brats_tfrecord.records.convert import ConvertOptions, convert


def main(options):
    """Converts; returns 0, or 1 if a case failed."""
    return 1 if convert(options).failures else 0


if __name__ == "__main__":
    command_line.run(main, ConvertOptions)
