"""The flags of convert_to_tfrecord.py."""

import dataclasses
import math
from dataclasses import dataclass, field

from brats_tfrecord import spec
from brats_tfrecord.cohort.header import MAX_VOXELS
from brats_tfrecord.cohort.layouts import LAYOUTS
from brats_tfrecord.cohort.nifti import BARE_MASK_AFFINES
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess.recipe import (
    BIAS_CORRECTIONS,
    BIAS_MASKS,
    CROPS,
    IMAGE_DTYPES,
    RESAMPLES,
    Recipe,
)
from brats_tfrecord.records.pool import BACKENDS, Workers

_READING = ("input_dir", "layout", "label_scheme", "bare_mask_affine")
_RUNNING = ("jobs", "backend", "dask_scheduler")
USED_BY = {
    "inspect": ("inspect", *_READING, "resample", *_RUNNING),
    "verify": ("verify", "output_dir", "verify_sample", "input_dir", *_RUNNING),
}
"""The flags that matter when nothing is converted; any other one given is refused."""


@dataclass(frozen=True)
class ConvertOptions:
    """What to convert, and how; every field is a flag of convert_to_tfrecord.py."""

    input_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the cohort, cases at any depth: BraTS 2018-2021, 2023-2024 or MSD "
            "Task01. Needed by all but --verify."
        },
    )
    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the dataset; made if missing. The same command run again goes on where "
            "it was stopped. Needed by all but --inspect."
        },
    )
    inspect: bool = field(
        default=False,
        metadata={
            "help": "Only print what the cohort holds, what is odd about it and what would be done; "
            "reads every voxel, writes nothing."
        },
    )
    verify: bool = field(
        default=False,
        metadata={
            "help": "Only re-read the finished dataset in --output_dir and prove every byte; with "
            "--input_dir also convert a few cases afresh and compare bit for bit."
        },
    )
    verify_sample: int = field(
        default=3,
        metadata={
            "help": "How many cases --verify --input_dir converts afresh, spread over the dataset."
        },
    )
    jobs: int = field(
        default=-1,
        metadata={
            "help": "Worker processes; -1 is one a core. Each takes one core and about half a GB. A "
            "Dask cluster has its own number."
        },
    )
    backend: str = field(
        default="loky",
        metadata={
            "choices": BACKENDS,
            "help": "loky: processes on this machine. dask: the workers of --dask_scheduler, which "
            "must see both folders under the same paths.",
        },
    )
    dask_scheduler: str | None = field(
        default=None,
        metadata={"help": "Address of a running Dask scheduler, such as tcp://10.0.0.1:8786."},
    )
    layout: str = field(
        default="auto",
        metadata={
            "choices": ("auto", *LAYOUTS),
            "help": "How folders and files are named. auto: told by the names.",
        },
    )
    label_scheme: str = field(
        default="auto",
        metadata={
            "choices": ("auto", *spec.LABEL_SCHEMES),
            "help": "What the values of the masks mean. auto: told by the release's names, never by "
            "the values; refused where names leave it open.",
        },
    )
    bare_mask_affine: str = field(
        default="refuse",
        metadata={
            "choices": BARE_MASK_AFFINES,
            "help": "A mask whose affine says nothing (identity, or none) over images whose affine "
            "does. ignore: it lies voxel for voxel as the images do.",
        },
    )
    resample: str = field(
        default="none",
        metadata={
            "choices": RESAMPLES,
            "help": "none: voxels off 1 mm by more than 5 % are refused. 1mm: such cases are resampled "
            "to 1 mm; segmentations come back on the case's own grid.",
        },
    )
    bias_correction: str = field(
        default="n4",
        metadata={
            "choices": BIAS_CORRECTIONS,
            "help": "n4: our own N4, the same field as ANTs in a fraction of the time. ants: ANTsPy "
            "itself, the documented recipe, minutes a case. none: leave intensities.",
        },
    )
    bias_mask: str = field(
        default="auto",
        metadata={
            "choices": ("auto", *BIAS_MASKS),
            "help": "Voxels that take part in the bias correction: the positive ones, or ANTs' "
            "get_mask of each volume. auto: get_mask for ants, positive otherwise.",
        },
    )
    crop: str = field(
        default="auto",
        metadata={
            "choices": CROPS,
            "help": "fixed: the window --crop_window. brain: a window of the same size, centred on the "
            "brain. auto: fixed for volumes of 240x240x155, brain for others.",
        },
    )
    crop_window: str = field(
        default="48:192,48:192,5:149",
        metadata={
            "help": "Window of voxels kept, x,y,z in LPS order; the default is the documented crop of "
            "240x240x155 to 144x144x144. Of --crop=brain only its size counts."
        },
    )
    image_dtype: str = field(
        default="float16",
        metadata={"choices": IMAGE_DTYPES, "help": "How normalised images are stored."},
    )
    folds: int = field(
        default=5,
        metadata={
            "help": "Folds for cross-validation, dealt by patient; --validation_fold=0 of train.py "
            "then is the classic 80/20 split."
        },
    )
    seed: int = field(default=0, metadata={"help": "Decides which patients share a fold."})
    cases_per_shard: int = field(
        default=4, metadata={"help": "The most cases in one TFRecord file."}
    )
    write_nifti: bool = field(
        default=False,
        metadata={
            "help": "Also save the processed images and one-hot masks as NIfTI, under "
            "OUTPUT_DIR/processed_images and OUTPUT_DIR/processed_masks."
        },
    )

    def __post_init__(self):
        if self.inspect and self.verify:
            raise InputError("--inspect and --verify: one at a time")
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

    def recipe(self):
        """The `Recipe` that the flags ask for; raises InputError naming the flag."""
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
        )

    def how_to_read(self):
        """Keyword arguments of `cohort.nifti.read_case`."""
        return {"any_spacing": self.resample != "none", "bare_mask_affine": self.bare_mask_affine}

    def workers(self):
        """The `pool.Workers` that the flags ask for; raises InputError naming the flag."""
        return Workers(self.jobs, self.backend, self.dask_scheduler)

    def _refuse_unused(self, mode):
        for option in dataclasses.fields(self):
            given = getattr(self, option.name)
            if option.name not in USED_BY[mode] and given != option.default:
                raise InputError(f"--{option.name}={given}: --{mode} does not use it; leave it out")

    def _require_folder(self, name, mode):
        needed = mode is None or (name in USED_BY[mode] and (mode, name) != ("verify", "input_dir"))
        if getattr(self, name) == "":
            raise InputError(f"--{name}: is empty; see --help")
        if needed and getattr(self, name) is None:
            raise InputError(f"--{name}: this flag is required; see --help")


def parse_window(text):
    """ "48:192,48:192,5:149" to ((48, 48, 5), (144, 144, 144))."""
    try:
        bounds = [tuple(int(bound) for bound in axis.split(":")) for axis in text.split(",")]
        if len(bounds) != 3 or any(len(b) != 2 or not 0 <= b[0] < b[1] for b in bounds):
            raise ValueError
    except ValueError as error:
        raise InputError(
            f"--crop_window={text}: expected first:end of x,y,z in voxels, such as "
            "48:192,48:192,5:149"
        ) from error
    shape = tuple(high - low for low, high in bounds)
    if math.prod(shape) > MAX_VOXELS:
        raise InputError(
            f"--crop_window={text}: holds {math.prod(shape):,} voxels; expected at "
            f"most {MAX_VOXELS:,}"
        )
    return tuple(low for low, _ in bounds), shape
