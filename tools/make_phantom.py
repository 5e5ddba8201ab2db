"""Makes a cohort of synthetic brain tumours in BraTS-2020 layout, to try everything else on.

Usage:
  python tools/make_phantom.py --output_dir=cohort
  python tools/make_phantom.py --output_dir=cohort --cases=12 --unlabelled=2 --seed=7 --jobs=2

The same flags give the same bytes; case k is the same in a longer cohort. Every eighth case, the
third first, has no enhancing tumour. Files that are there already are replaced.
"""

from dataclasses import dataclass, field

import command_line
import numpy as np
from tqdm import tqdm

from brats_tfrecord import files
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.errors import InputError
from brats_tfrecord.metrics.threshold import best_threshold_dice
from brats_tfrecord.phantom import generate


@dataclass(frozen=True)
class PhantomOptions:
    """The flags of this tool."""

    output_dir: str = field(metadata={"help": "folder that gets one folder a case"})
    cases: int = field(default=10, metadata={"help": "labelled cases, BraTS20_Training_001 …"})
    unlabelled: int = field(
        default=0, metadata={"help": "cases without a mask, BraTS20_Validation_001 …"}
    )
    seed: int = field(default=0, metadata={"help": "seed of the whole cohort"})
    jobs: int = field(default=1, metadata={"help": "processes"})
    shape: str = field(
        default="240,240,155",
        metadata={
            "help": "voxels x,y,z; a smaller volume holds a smaller head and is made in no time"
        },
    )

    threshold_baselines: bool = field(
        default=False,
        metadata={
            "help": "also print how well the best single threshold of one modality segments the "
            "cohort: what a network has to beat"
        },
    )

    @property
    def voxels(self):
        """The shape as three numbers; raises InputError if it is not."""
        try:
            x, y, z = (int(extent) for extent in self.shape.split(","))
        except ValueError as error:
            raise InputError(
                f"--shape={self.shape}: expected three whole numbers such as 240,240,155"
            ) from error
        if max(x, y, z) > 512:
            raise InputError(f"--shape={self.shape}: expected at most 512 voxels an axis")
        return x, y, z


def main(options):
    """Writes the cohort; returns 0."""
    files.require_writable("--output_dir", options.output_dir)
    total = options.cases + options.unlabelled
    with tqdm(total=total, desc="phantoms", unit="case", delay=0.5) as bar:
        folders = generate.write_cohort(
            options.output_dir,
            options.cases,
            options.seed,
            unlabelled=options.unlabelled,
            shape=options.voxels,
            jobs=options.jobs,
            progress=lambda folder: bar.update(),
        )
    print(
        f"Wrote {len(folders)} phantom cases ({options.unlabelled} without a mask) to "
        f"{options.output_dir}"
    )
    if options.threshold_baselines:
        print_baselines(options.output_dir)
    return 0


def print_baselines(root):
    """Prints mean Dice at the best single threshold, on raw and on z-scored intensities."""
    cases = [case for case in layouts.find_cases(root) if case.mask is not None]
    truths = [nifti.read_volume(case.mask)[0] for case in cases]
    for modality, region, labels in (("flair", "WT", (1, 2, 4)), ("t1ce", "ET", (4,))):
        raw, wanted = [], []
        for case, truth in zip(cases, truths):
            volume = nifti.read_volume(case.image(modality))[0]
            brain = volume > 0
            raw.append(volume[brain])
            wanted.append(np.isin(truth[brain], labels))
        scaled = [(values - values.mean()) / values.std() for values in raw]
        print(
            f"Best single {modality} threshold over the cohort: {region} Dice "
            f"{best_threshold_dice(raw, wanted)[0]:.3f} (raw), "
            f"{best_threshold_dice(scaled, wanted)[0]:.3f} (z-scored)"
        )


if __name__ == "__main__":
    command_line.run(main, PhantomOptions)
