"""The look before a conversion: what a cohort holds and what would be done about it."""

import functools
import os

from tqdm import tqdm

from brats_tfrecord.cohort import layouts, survey
from brats_tfrecord.records.pool import open_pool


def inspect(options):
    """Prints what a cohort holds, what is odd about it and what would be done; writes nothing.

    Args:
        options: `records.convert_options.ConvertOptions`.

    Returns:
        the number of cases that would be refused.

    Raises:
        InputError: no cohort there, or one whose names leave its layout or labels open.
    """
    cohort = layouts.find_cohort(
        os.path.abspath(options.input_dir), options.layout, options.label_scheme
    )
    look = functools.partial(survey.examine, **options.how_to_read())
    with open_pool(options.workers().for_tasks(len(cohort.cases))) as run:
        examinations = list(
            tqdm(
                run(look, cohort.cases),
                total=len(cohort.cases),
                unit="case",
                desc="inspecting",
                dynamic_ncols=True,
                leave=False,
            )
        )
    print(*survey.table(cohort, examinations), sep="\n")
    return sum(examination.refusal is not None for examination in examinations)
