"""Converts a cohort of NIfTI cases into sharded TFRecords.

Usage:
  python tools/convert_to_tfrecord.py --inspect --input_dir=MICCAI_BraTS2020_TrainingData
  python tools/convert_to_tfrecord.py --input_dir=MICCAI_BraTS2020_TrainingData --output_dir=dataset
  python tools/convert_to_tfrecord.py --verify --output_dir=dataset

Every case is bias-corrected, cropped, normalised and written with its packed one-hot mask. A case
that fails is named and left out, and the exit code is then 1. A conversion that was stopped for any
reason is resumed by the same command; finished cases are kept. --bias_correction=ants is the
documented recipe with ANTsPy; --backend=dask distributes the cases over the workers of a Dask
scheduler.
"""

import command_line

from brats_tfrecord.records import convert, convert_options, inspection, verify


def main(options: convert_options.ConvertOptions) -> int:
    """Inspects, verifies or converts; returns 1 if a case failed or a problem was found, else 0."""
    if options.inspect:
        return 1 if inspection.inspect(options) else 0
    if options.verify:
        problems = verify.verify(
            options.output_dir or "", options.input_dir, options.verify_sample, options.workers()
        )
        count = f"{len(problems) or 'No'} problem{'s' * (len(problems) != 1)}"
        print(*problems, f"{count} in {options.output_dir}", sep="\n")
        return 1 if problems else 0
    return 1 if convert.convert(options).failures else 0


if __name__ == "__main__":
    command_line.run(main, convert_options.ConvertOptions)
