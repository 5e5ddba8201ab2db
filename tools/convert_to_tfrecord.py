"""Converts a cohort of NIfTI cases into sharded TFRecords, once.

Usage:
  python tools/convert_to_tfrecord.py --inspect --input_dir=MICCAI_BraTS2020_TrainingData
  python tools/convert_to_tfrecord.py --input_dir=MICCAI_BraTS2020_TrainingData --output_dir=dataset
  python tools/convert_to_tfrecord.py --verify --output_dir=dataset

Every case is bias-corrected, cropped, normalised and written with its packed one-hot mask. A case
that fails is named and left out; the rest goes on, and the exit code is then 1. A conversion that
was stopped, by whatever, goes on when the same command is given again: cases that are done are
kept. --bias_correction=ants is the documented recipe by ANTsPy itself; --backend=dask spreads the
cases over the workers of a Dask scheduler.
"""

import command_line

from brats_tfrecord.records import convert, convert_options, inspection, verify


def main(chosen):
    """Inspects, verifies or converts; returns 0, or 1 if a case failed or a problem was found."""
    if chosen.inspect:
        return 1 if inspection.inspect(chosen) else 0
    if chosen.verify:
        problems = verify.verify(
            chosen.output_dir, chosen.input_dir, chosen.verify_sample, chosen.workers()
        )
        count = f"{len(problems) or 'No'} problem{'s' * (len(problems) != 1)}"
        print(*problems, f"{count} in {chosen.output_dir}", sep="\n")
        return 1 if problems else 0
    return 1 if convert.convert(chosen).failures else 0


if __name__ == "__main__":
    command_line.run(main, convert_options.ConvertOptions)
