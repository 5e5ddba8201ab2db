"""Inspects a cohort before its conversion."""

import functools
import os

from tqdm import tqdm

from brats_tfrecord.cohort import layouts, survey
from brats_tfrecord.records.convert_options import ConvertOptions
from brats_tfrecord.records.pool import open_pool


def inspect(options: ConvertOptions) -> int:
    """Prints the cases of a cohort, their peculiarities and their treatment; writes nothing.

    Returns:
        the number of cases that a conversion would refuse.

    Raises:
        InputError: the folder holds no cohort, or its names do not determine layout and labels.
    """
    cohort = layouts.find_cohort(
        os.path.abspath(options.input_dir or ""), options.layout, options.label_scheme
    )
    examine = functools.partial(survey.examine, **options.how_to_read())
    with open_pool(options.workers().for_tasks(len(cohort.cases))) as run:
        examinations = list(
            tqdm(
                run(examine, cohort.cases),
                total=len(cohort.cases),
                unit="case",
                desc="inspecting",
                dynamic_ncols=True,
                leave=False,
            )
        )
    print(*survey.table(cohort, examinations), sep="\n")
    return sum(examination.refusal is not None for examination in examinations)
