"""What an evaluation is asked to do."""

import dataclasses
from dataclasses import dataclass

from brats_tfrecord import spec
from brats_tfrecord.cohort.layouts import LAYOUTS
from brats_tfrecord.cohort.nifti import BARE_MASK_AFFINES
from brats_tfrecord.errors import InputError


def _option(default, help_text, choices=None):
    metadata = {"help": help_text} | ({"choices": choices} if choices else {})
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of one evaluation; each field is a flag of `tools/evaluate.py` of the same name.

    Raises:
        InputError: at construction, naming the flag that is wrong.
    """

    model: str = _option(dataclasses.MISSING, "Folder of the SavedModel.")
    output_dir: str = _option(
        dataclasses.MISSING, "Folder for report.html, metrics.csv, metrics.json; made if missing."
    )
    data_dir: str | None = _option(
        None, "Dataset made by convert_to_tfrecord.py, to evaluate one of its folds."
    )
    fold: str | None = _option(
        None, "Fold of --data_dir: a number, all, or unlabelled; 0 if not given."
    )
    input_dir: str | None = _option(
        None, "Cohort of NIfTI cases, to evaluate them from the files up."
    )
    layout: str = _option(
        "auto", "How the files of --input_dir are named. auto: told by the names.",
        ("auto", *LAYOUTS),
    )
    label_scheme: str = _option(
        "auto", "What the masks of --input_dir hold. auto: told by the release's names.",
        ("auto", *spec.LABEL_SCHEMES),
    )
    bare_mask_affine: str = _option(
        "refuse", "A mask of --input_dir whose affine says nothing over images whose affine does. "
        "ignore: it lies voxel for voxel as the images do.", BARE_MASK_AFFINES,
    )
    write_segmentations: bool = _option(
        False,
        "Also write OUTPUT_DIR/segmentations/CASE.nii.gz with the case's own geometry and label "
        "values.",
    )
    threshold_baselines: bool = _option(
        False,
        "Also score the best single threshold of FLAIR (whole tumour) and T1ce (enhancing tumour) "
        "over the same cases, each z-scored over its brain: what a network has to beat. Goes with "
        "--input_dir; holds some 20 MB a case.",
    )
    pictures: int = _option(6, "Cases shown in the report, from the worst to the best.")

    def __post_init__(self):
        if (self.data_dir is None) == (self.input_dir is None):
            raise InputError("--data_dir, --input_dir: expected exactly one of them")
        if self.fold is not None and self.data_dir is None:
            raise InputError(f"--fold={self.fold}: goes with --data_dir; an --input_dir is "
                             "evaluated whole")
        for name, default in (("layout", "auto"), ("label_scheme", "auto"),
                              ("bare_mask_affine", "refuse")):
            if getattr(self, name) != default and self.input_dir is None:
                raise InputError(f"--{name}={getattr(self, name)}: goes with --input_dir; a "
                                 "dataset has been read already")
        if self.threshold_baselines and self.input_dir is None:
            raise InputError("--threshold_baselines: goes with --input_dir; a dataset keeps no "
                             "raw intensities")
        number = (self.fold or "0").isascii() and (self.fold or "0").isdigit()
        if self.fold not in ("all", "unlabelled") and not number:
            raise InputError(f"--fold={self.fold}: expected a number, all or unlabelled")
        if self.pictures < 0:
            raise InputError(f"--pictures={self.pictures}: expected 0 or more")
