"""Makes a cohort of synthetic brain tumours in BraTS-2020 layout, to try the other tools on.

Usage:
  python tools/make_phantom.py --output_dir=cohort
  python tools/make_phantom.py --output_dir=cohort --cases=12 --unlabelled=2 --seed=7 --jobs=2

The same flags give the same bytes, and a case is the same in cohorts of any length. Every eighth
case, beginning with the third, has no enhancing tumour. Existing files are replaced.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import command_line
import numpy as np
from tqdm import tqdm

from brats_tfrecord import files
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.errors import InputError
from brats_tfrecord.metrics.threshold import best_threshold_dice
from brats_tfrecord.options import option
from brats_tfrecord.phantom import generate


@dataclass(frozen=True)
class PhantomOptions:
    """The flags of this tool."""

    output_dir: str = option(dataclasses.MISSING, "Folder that gets one folder per case.")
    cases: int = option(10, "Number of labelled cases, BraTS20_Training_001 and so on.")
    unlabelled: int = option(0, "Number of cases without a mask, BraTS20_Validation_001 and so on.")
    seed: int = option(0, "Seed of the whole cohort.")
    jobs: int = option(1, "Number of processes.")
    shape: str = option(
        "240,240,155",
        "Voxels along x, y and z. A smaller volume holds a smaller head and is made much faster.",
    )
    threshold_baselines: bool = option(
        False,
        "Also prints how well the best single threshold of one modality segments the cohort: a "
        "network should do better.",
    )

    @property
    def voxels(self) -> tuple[int, int, int]:
        """The shape as three numbers; raises `InputError` if it is malformed or too large."""
        try:
            x, y, z = (int(extent) for extent in self.shape.split(","))
        except ValueError as error:
            raise InputError(
                f"--shape={self.shape}: expected three whole numbers such as 240,240,155"
            ) from error
        if max(x, y, z) > 512:
            raise InputError(f"--shape={self.shape}: expected at most 512 voxels per axis")
        return x, y, z


def main(options: PhantomOptions) -> int:
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


def print_baselines(root: Path | str) -> None:
    """Prints mean Dice at the best single threshold, on raw and on z-scored intensities."""
    cases = [
        (case, nifti.read_volume(case.mask)[0])
        for case in layouts.find_cases(root)
        if case.mask is not None
    ]
    for modality, region, labels in (("flair", "WT", (1, 2, 4)), ("t1ce", "ET", (4,))):
        raw, truths = [], []
        for case, mask in cases:
            volume = nifti.read_volume(case.image(modality))[0]
            brain = volume > 0
            raw.append(volume[brain])
            truths.append(np.isin(mask[brain], labels))
        scaled = [(values - values.mean()) / values.std() for values in raw]
        print(
            f"Best single {modality} threshold over the cohort: {region} Dice "
            f"{best_threshold_dice(raw, truths)[0]:.3f} (raw), "
            f"{best_threshold_dice(scaled, truths)[0]:.3f} (z-scored)"
        )


if __name__ == "__main__":
    command_line.run(main, PhantomOptions)
