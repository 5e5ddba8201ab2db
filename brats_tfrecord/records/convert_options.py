"""The options of a conversion: one frozen dataclass, checked at construction."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from brats_tfrecord import spec
from brats_tfrecord.cohort.header import MAX_VOXELS
from brats_tfrecord.cohort.naming import LAYOUTS
from brats_tfrecord.cohort.nifti import BARE_MASK_AFFINES
from brats_tfrecord.errors import InputError
from brats_tfrecord.options import option
from brats_tfrecord.preprocess.normalize import REGIONS
from brats_tfrecord.preprocess.recipe import (
    BIAS_CORRECTIONS,
    BIAS_MASKS,
    CROPS,
    IMAGE_DTYPES,
    RESAMPLES,
    Recipe,
)
from brats_tfrecord.records.pool import BACKENDS, Workers

_READING = ("input_dir", "layout", "label_scheme", "bare_mask_affine", "allow_missing")
_RUNNING = ("jobs", "backend", "dask_scheduler")
USED_BY = {
    "inspect": ("inspect", *_READING, "resample", *_RUNNING),
    "verify": ("verify", "output_dir", "verify_sample", "input_dir", *_RUNNING),
}
"""Mode without conversion -> the flags that it uses; other flags are refused."""


@dataclass(frozen=True)
class ConvertOptions:
    """Options of a conversion; each field is a flag of `tools/convert_to_tfrecord.py`.

    Raises:
        InputError: at construction; names the flag that is wrong.
    """

    input_dir: str | None = option(
        None,
        "Folder of the cohort, with cases at any depth: BraTS 2018-2021, BraTS 2023-2024 or MSD "
        "Task01. Required, except with --verify.",
    )
    output_dir: str | None = option(
        None,
        "Folder of the dataset, created if missing. Running the same command again resumes a "
        "stopped conversion. Required, except with --inspect.",
    )
    inspect: bool = option(
        False,
        "Only prints the cases of the cohort, their peculiarities and their treatment. Reads every "
        "voxel and writes nothing.",
    )
    verify: bool = option(
        False,
        "Only reads the finished dataset in --output_dir again and checks every byte. With "
        "--input_dir, some cases are also converted again and compared bit for bit.",
    )
    verify_sample: int = option(
        3, "Number of cases that --verify with --input_dir converts again, spread over the dataset."
    )
    jobs: int = option(
        -1,
        "Number of worker processes; -1 is one per core. Each uses one core and about half a GB. "
        "A Dask cluster has its own number of workers.",
    )
    backend: str = option(
        "loky",
        "Where the workers run. loky: processes on this machine; dask: the workers of "
        "--dask_scheduler, which must see both folders under the same paths.",
        choices=BACKENDS,
    )
    dask_scheduler: str | None = option(
        None, "Address of a running Dask scheduler, such as tcp://10.0.0.1:8786."
    )
    layout: str = option(
        "auto",
        "Naming of the folders and files. auto detects it from the names.",
        choices=("auto", *LAYOUTS),
    )
    label_scheme: str = option(
        "auto",
        "Meaning of the values of the masks. auto derives it from the names of the release, never "
        "from the values; a cohort whose names do not determine it is refused.",
        choices=("auto", *spec.LABEL_SCHEMES),
    )
    bare_mask_affine: str = option(
        "refuse",
        "Treatment of a mask without position (no affine, or the identity) for images with one. "
        "ignore: the mask has the position of the images, voxel by voxel.",
        choices=BARE_MASK_AFFINES,
    )
    allow_missing: bool = option(
        False,
        "Also converts cases that lack one, two or three of the four modalities: the channel is 0 "
        "and marked as missing. Otherwise these cases are refused. Cases that have all four are "
        "converted to the same bytes either way.",
    )
    resample: str = option(
        "none",
        "Treatment of cases whose voxel size differs from 1 mm by more than 5 %. none: they are "
        "refused; 1mm: they are resampled to 1 mm, and segmentations are returned on the grid of "
        "the input.",
        choices=RESAMPLES,
    )
    bias_correction: str = option(
        "n4",
        "Bias field correction. n4: our own N4, the same field as ANTs in a fraction of the time; "
        "ants: ANTsPy, the documented recipe, minutes per case; none: intensities are not changed.",
        choices=BIAS_CORRECTIONS,
    )
    bias_mask: str = option(
        "auto",
        "Voxels that the bias correction uses: positive ones, or get_mask of ANTs for each volume. "
        "auto is get_mask for ants and positive otherwise.",
        choices=("auto", *BIAS_MASKS),
    )
    crop: str = option(
        "auto",
        "Position of the crop. fixed: at --crop_window; brain: centred on the brain, of the size "
        "of --crop_window; auto: fixed for volumes of 240x240x155 voxels, brain for others.",
        choices=CROPS,
    )
    crop_window: str = option(
        "48:192,48:192,5:149",
        "Window of voxels to keep, as first:end of x,y,z in LPS order. The default is the "
        "documented crop of 240x240x155 to 144x144x144 voxels. --crop=brain uses only its size.",
    )
    normalize: str = option(
        "crop",
        "Voxels whose mean and standard deviation the z-score of each channel takes. crop: all of "
        "the crop, as in the documented recipe; brain: those that are not 0, which does not depend "
        "on how much of the crop the head fills. The background is then 0.",
        choices=REGIONS,
    )
    image_dtype: str = option("float16", "Dtype of the stored images.", choices=IMAGE_DTYPES)
    folds: int = option(
        5,
        "Number of folds for cross-validation; all cases of a patient are in one fold. With 5, "
        "--validation_fold=0 of train.py is the usual 80/20 split.",
    )
    seed: int = option(0, "Seed of the assignment of patients to folds.")
    cases_per_shard: int = option(4, "Largest number of cases in one TFRecord file.")
    write_nifti: bool = option(
        False,
        "Also writes the preprocessed images and one-hot masks as NIfTI files, to "
        "OUTPUT_DIR/processed_images and OUTPUT_DIR/processed_masks.",
    )

    def __post_init__(self) -> None:
        if self.inspect and self.verify:
            raise InputError("--inspect and --verify: give only one of them")
        mode = "inspect" if self.inspect else "verify" if self.verify else None
        if mode:
            self._refuse_unused(mode)
        for name in ("input_dir", "output_dir"):
            self._require_folder(name, mode)
        if self.verify_sample != 3 and not (self.verify and self.input_dir):
            raise InputError(
                f"--verify_sample={self.verify_sample}: only --verify with "
                "--input_dir uses it; leave it out"
            )
        if self.verify_sample < 1:
            raise InputError(f"--verify_sample={self.verify_sample}: expected at least 1")
        self.workers()
        self.recipe()

    def recipe(self) -> Recipe:
        """Returns the preprocessing recipe; raises InputError that names a wrong flag."""
        mask = self.bias_mask
        if mask == "auto":
            mask = "get_mask" if self.bias_correction == "ants" else "positive"
        origin, shape = parse_window(self.crop_window)
        return Recipe(
            bias_correction=self.bias_correction,
            bias_mask=mask,
            crop_origin=origin,
            crop_shape=shape,
            image_dtype=self.image_dtype,
            crop=self.crop,
            resample=self.resample,
            normalize=self.normalize,
        )

    def how_to_read(self) -> dict[str, Any]:
        """Returns the keyword arguments of `cohort.nifti.read_case`."""
        # Without the flag, the manifest is that of the versions that did not have it.
        return {
            "any_spacing": self.resample != "none",
            "bare_mask_affine": self.bare_mask_affine,
            **({"allow_missing": True} if self.allow_missing else {}),
        }

    def workers(self) -> Workers:
        """Returns the worker processes to use; raises InputError that names a wrong flag."""
        return Workers(self.jobs, self.backend, self.dask_scheduler)

    def _refuse_unused(self, mode):
        for field in dataclasses.fields(self):
            given = getattr(self, field.name)
            if field.name not in USED_BY[mode] and given != field.default:
                raise InputError(f"--{field.name}={given}: --{mode} does not use it; leave it out")

    def _require_folder(self, name, mode):
        needed = mode is None or (name in USED_BY[mode] and (mode, name) != ("verify", "input_dir"))
        if getattr(self, name) == "":
            raise InputError(f"--{name}: is empty; see --help")
        if needed and getattr(self, name) is None:
            raise InputError(f"--{name}: this flag is required; see --help")


def parse_window(text: str) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Parses a window such as "48:192,48:192,5:149".

    Returns:
        first voxel (x, y, z) and shape (X, Y, Z), here (48, 48, 5) and (144, 144, 144).

    Raises:
        InputError: `text` is not a window, or the window is too large.
    """
    try:
        bounds = [tuple(int(bound) for bound in axis.split(":")) for axis in text.split(",")]
        if len(bounds) != 3 or any(len(b) != 2 or not 0 <= b[0] < b[1] for b in bounds):
            raise ValueError
    except ValueError as error:
        raise InputError(
            f"--crop_window={text}: expected first:end of x,y,z in voxels, such as "
            "48:192,48:192,5:149"
        ) from error
    (x, x_end), (y, y_end), (z, z_end) = bounds
    shape = (x_end - x, y_end - y, z_end - z)
    if math.prod(shape) > MAX_VOXELS:
        raise InputError(
            f"--crop_window={text}: holds {math.prod(shape):,} voxels; expected at "
            f"most {MAX_VOXELS:,}"
        )
    return (x, y, z), shape
