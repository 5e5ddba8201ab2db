"""Options of an evaluation."""

import dataclasses
from dataclasses import dataclass

from brats_tfrecord import files, metrics, spec
from brats_tfrecord.cohort.naming import LAYOUTS
from brats_tfrecord.cohort.nifti import BARE_MASK_AFFINES
from brats_tfrecord.errors import InputError
from brats_tfrecord.options import option

_NEEDS_INPUT_DIR = {
    "layout": "a dataset has no file names to interpret",
    "label_scheme": "a dataset stores its label scheme",
    "bare_mask_affine": "a dataset contains no NIfTI masks",
    "threshold_baselines": "a dataset contains no raw intensities",
}
"""Option that needs --input_dir -> reason."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of one evaluation; each field is a flag of `tools/evaluate.py` of the same name.

    Raises:
        InputError: at construction, if a value is invalid; the message names the flag.
    """

    model: str = option(dataclasses.MISSING, "Folder of the SavedModel.")
    output_dir: str = option(
        dataclasses.MISSING,
        "Folder for report.html, metrics.csv and metrics.json; created if missing. Run the same "
        "command again to resume an interrupted evaluation. Results of another evaluation are "
        "never overwritten.",
    )
    data_dir: str | None = option(
        None, "Dataset written by convert_to_tfrecord.py; one of its folds is evaluated."
    )
    fold: str | None = option(
        None, "Fold of --data_dir: a number, all or unlabelled; 0 if not given."
    )
    input_dir: str | None = option(
        None, "Folder of NIfTI cases to evaluate, instead of --data_dir."
    )
    layout: str = option(
        "auto",
        "Naming scheme of the files in --input_dir. auto: detect it from the names.",
        ("auto", *LAYOUTS),
    )
    label_scheme: str = option(
        "auto",
        "Label values of the masks in --input_dir. auto: detect the release from the file names.",
        ("auto", *spec.LABEL_SCHEMES),
    )
    bare_mask_affine: str = option(
        "refuse",
        "How to treat a mask in --input_dir that has no affine while its images have one. "
        "ignore: assume that its voxels match those of the images.",
        BARE_MASK_AFFINES,
    )
    drop_modalities: str = option(
        "",
        "Evaluates every case as if it lacked these modalities, such as t1ce or t1ce,t2, to "
        "measure what a model that was trained with --modality_dropout is worth without them. "
        "Cases keep what else they lack; with --data_dir, the crop window stays where it is.",
    )
    rules: str = option(
        "brats2020",
        "Rules of the challenge to follow: the definition of HD95, the scores of empty masks, and "
        "whether lesions are also scored one by one. brats2023: the rules of the challenge in the "
        "case ids (BraTS-GLI, SSA, PED, MEN or MET), glioma's if there is none; brats2023-men and "
        "brats2023-met are those of meningioma and metastases. The report prints the rules in "
        "full.",
        tuple(metrics.RULE_SETS),
    )
    compare: str | None = option(
        None,
        "metrics.json of another evaluation of the same cases with the same --rules, for example "
        "of an earlier model. The report adds paired differences with confidence intervals and "
        "p-values.",
    )
    write_segmentations: bool = option(
        False,
        "Also write OUTPUT_DIR/segmentations/CASE.nii.gz, with the geometry and label values of "
        "the case.",
    )
    threshold_baselines: bool = option(
        False,
        "Also score the best single threshold of FLAIR (whole tumour) and of T1ce (enhancing "
        "tumour), z-scored over the brain, on the same cases, as a simple method to compare with. "
        "Needs --input_dir, and about 20 MB of disk per case until the evaluation has finished.",
    )
    pictures: int = option(
        9,
        "Maximum number of cases with pictures in the report: the worst, median and best by Dice "
        "of WT, TC and ET, then unlabelled cases. 0: no pictures, which is faster.",
    )

    def __post_init__(self) -> None:
        if (self.data_dir is None) == (self.input_dir is None):
            raise InputError("--data_dir, --input_dir: expected exactly one of them")
        if self.fold is not None and self.data_dir is None:
            raise InputError(
                f"--fold={self.fold}: needs --data_dir; all cases of --input_dir are evaluated"
            )
        self._require_input_dir()
        names = self.dropped_modalities
        if len(set(names)) < len(names) or not set(names) <= set(spec.MODALITIES):
            raise InputError(
                f"--drop_modalities={self.drop_modalities}: expected distinct names out of "
                f"{','.join(spec.MODALITIES)}, separated by commas"
            )
        fold = self.fold or "0"
        if fold not in ("all", "unlabelled") and not (fold.isascii() and fold.isdigit()):
            raise InputError(f"--fold={self.fold}: expected a number, all or unlabelled")
        if self.input_dir is not None:
            files.require_outside("--output_dir", self.output_dir, "--input_dir", self.input_dir)
        if self.pictures < 0:
            raise InputError(f"--pictures={self.pictures}: expected 0 or more")

    @property
    def dropped_modalities(self) -> tuple[str, ...]:
        """Names of the modalities that no case is to have, in the order given."""
        if not self.drop_modalities:
            return ()
        return tuple(name.strip() for name in self.drop_modalities.split(","))

    def _require_input_dir(self):
        """Raises InputError if an option that needs --input_dir is set without it."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if self.input_dir is None and field.name in _NEEDS_INPUT_DIR and value != field.default:
                flag = f"--{field.name}" + ("" if value is True else f"={value}")
                raise InputError(f"{flag}: needs --input_dir; {_NEEDS_INPUT_DIR[field.name]}")
