"""What an evaluation is asked to do."""

import dataclasses
from dataclasses import dataclass

from brats_tfrecord import files, metrics, spec
from brats_tfrecord.cohort.layouts import LAYOUTS
from brats_tfrecord.cohort.nifti import BARE_MASK_AFFINES
from brats_tfrecord.errors import InputError

COVERS = ("window", "brain")
"""What of a case is predicted; see `serving.predict.Segmenter`."""


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
        dataclasses.MISSING,
        "Folder for report.html, metrics.csv, metrics.json; made if missing. "
        "A stopped evaluation goes on in it when the same command is run again; the work of "
        "another is never written over.",
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
        "auto",
        "How the files of --input_dir are named. auto: told by the names.",
        ("auto", *LAYOUTS),
    )
    label_scheme: str = _option(
        "auto",
        "What the masks of --input_dir hold. auto: told by the release's names.",
        ("auto", *spec.LABEL_SCHEMES),
    )
    bare_mask_affine: str = _option(
        "refuse",
        "A mask of --input_dir whose affine says nothing over images whose affine does. "
        "ignore: it lies voxel for voxel as the images do.",
        BARE_MASK_AFFINES,
    )
    rules: str = _option(
        "brats2020",
        "Which challenge's rules the figures follow: what an empty mask scores, and "
        "whether lesions are judged one by one. The report prints them in full.",
        tuple(metrics.RULE_SETS),
    )
    cover: str = _option(
        "window",
        "What is predicted. window: the recipe's crop, as in training; the same figures "
        "from a dataset and from its files. brain: also what of the brain lies outside of it; "
        "goes with --input_dir.",
        COVERS,
    )
    compare: str | None = _option(
        None,
        "metrics.json of another evaluation of the same cases by the same --rules, such as "
        "an earlier model's: paired differences with confidence intervals and p.",
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
        "--input_dir; takes some 20 MB of disk a case while it runs.",
    )
    pictures: int = _option(
        9,
        "At most so many cases are shown in the report: the worst, the median and the best by "
        "Dice of WT, TC and ET each; then unlabelled ones. 0: none are drawn, which is faster.",
    )

    def __post_init__(self):
        if (self.data_dir is None) == (self.input_dir is None):
            raise InputError("--data_dir, --input_dir: expected exactly one of them")
        if self.fold is not None and self.data_dir is None:
            raise InputError(
                f"--fold={self.fold}: goes with --data_dir; an --input_dir is evaluated whole"
            )
        for name, default in (
            ("layout", "auto"),
            ("label_scheme", "auto"),
            ("bare_mask_affine", "refuse"),
        ):
            if getattr(self, name) != default and self.input_dir is None:
                raise InputError(
                    f"--{name}={getattr(self, name)}: goes with --input_dir; a "
                    "dataset has been read already"
                )
        if self.cover != "window" and self.input_dir is None:
            raise InputError(
                f"--cover={self.cover}: goes with --input_dir; a dataset holds "
                "nothing outside of its window"
            )
        if self.threshold_baselines and self.input_dir is None:
            raise InputError(
                "--threshold_baselines: goes with --input_dir; a dataset keeps no raw intensities"
            )
        number = (self.fold or "0").isascii() and (self.fold or "0").isdigit()
        if self.fold not in ("all", "unlabelled") and not number:
            raise InputError(f"--fold={self.fold}: expected a number, all or unlabelled")
        if self.input_dir is not None:
            files.require_outside("--output_dir", self.output_dir, "--input_dir", self.input_dir)
        if self.pictures < 0:
            raise InputError(f"--pictures={self.pictures}: expected 0 or more")
