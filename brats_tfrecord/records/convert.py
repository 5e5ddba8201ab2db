"""Converts a cohort into a dataset: joblib over cases, shards by concatenation.

The unit of work is a case. A worker turns one case into a one-record TFRecord file; a shard is the
concatenation of its cases' files in fixed order, so that jobs and order never change a byte.
"""

import contextlib
import json
import os
import shutil
import traceback
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import joblib
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from brats_tfrecord import __version__, files, spec
from brats_tfrecord.cohort import layouts, nifti, survey
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.preprocess.recipe import BIAS_CORRECTIONS, BIAS_MASKS, IMAGE_DTYPES, Recipe
from brats_tfrecord.records import manifest, shards
from brats_tfrecord.records.processed import write_processed

WORK_FOLDER = ".converting"


@dataclass(frozen=True)
class ConvertOptions:
    """What to convert, and how; every field is a flag of convert_to_tfrecord.py."""

    input_dir: str = field(metadata={
        "help": "Folder of the cohort: BraTS 2018-2020 case folders, at any depth."})
    output_dir: str = field(metadata={"help": "Folder of the dataset; made if missing."})
    jobs: int = field(default=-1, metadata={
        "help": "Worker processes; -1 is one a core. Each takes one core and about 1 GB."})
    folds: int = field(default=5, metadata={
        "help": "Folds for cross-validation, dealt by patient; --validation_fold=0 of train.py "
                "then is the classic 80/20 split."})
    cases_per_shard: int = field(default=4, metadata={
        "help": "The most cases in one TFRecord file."})
    bias_correction: str = field(default="n4", metadata={
        "choices": BIAS_CORRECTIONS,
        "help": "n4: our own N4, the same field as ANTs in a fraction of the time. ants: ANTsPy "
                "itself, the documented recipe, minutes a case. none: leave intensities."})
    bias_mask: str = field(default="auto", metadata={
        "choices": ("auto", *BIAS_MASKS),
        "help": "Voxels that take part in the bias correction: the positive ones, or ANTs' "
                "get_mask of each volume. auto: get_mask for ants, positive otherwise."})
    crop_window: str = field(default="48:192,48:192,5:149", metadata={
        "help": "Window of voxels kept, x,y,z in LPS order; the default is the documented crop of "
                "240x240x155 to 144x144x144."})
    image_dtype: str = field(default="float16", metadata={
        "choices": IMAGE_DTYPES, "help": "How normalised images are stored."})
    write_nifti: bool = field(default=False, metadata={
        "help": "Also save the processed images and one-hot masks as NIfTI, under "
                "OUTPUT_DIR/processed_images and OUTPUT_DIR/processed_masks."})
    seed: int = field(default=0, metadata={"help": "Decides which patients share a fold."})

    def __post_init__(self):
        if self.jobs == 0:
            raise InputError("--jobs=0: expected the number of worker processes, or -1 for one a "
                             "core")

    def recipe(self):
        """The `Recipe` that the flags ask for; raises InputError naming the flag."""
        mask = self.bias_mask
        if mask == "auto":
            mask = "get_mask" if self.bias_correction == "ants" else "positive"
        origin, shape = _parse_window(self.crop_window)
        return Recipe(self.bias_correction, mask, origin, shape, self.image_dtype)


def convert(options):
    """Converts the cohort of `options.input_dir`.

    Prints what the cohort holds, a progress bar, each failed case with its reason, what the crop
    cost, and `Successfully processed k/n patients`.

    Returns:
        the `manifest.Manifest` of the finished dataset; `failures` names the cases left out.

    Raises:
        InputError: no dataset was written: no cohort, no usable case, folds that do not work, or
            an output folder that holds a finished dataset.
    """
    recipe = options.recipe()
    cases = {case.case_id: case for case in layouts.find_cases(options.input_dir)}
    scheme = _common_scheme(cases.values())
    plans = _plan(cases.values(), options)
    root = Path(options.output_dir)
    _check_output(root)
    print(*survey.survey(options.input_dir, list(cases.values())), sep="\n", flush=True)
    files.require_writable("--output_dir", root)
    _clear(root)
    work = root / WORK_FOLDER
    work.mkdir()
    try:
        _convert_shards(plans, cases, recipe, options, root, work)
        _refuse_empty(root, plans)
        result = manifest.write(root, plans, recipe, scheme, options.folds, options.seed,
                                _versions(recipe))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _print_ledger(result)
    print(f"Successfully processed {len(result.cases)}/{len(cases)} patients")
    return result


@dataclass(frozen=True)
class _Outcome:
    """What a worker reports of a case: a row, or the reason why there is none."""

    case_id: str
    row: manifest.CaseRow | None
    reason: str | None


def convert_case(case, recipe, target, fold, shard, processed_root=None):
    """Turns one case into the one-record TFRecord file `target`; runs in a worker.

    Args:
        case: `layouts.Case`.
        recipe: `Recipe`.
        target: the file to write, whole or not at all.
        fold, shard: where the record will end up, for the manifest.
        processed_root: also save processed NIfTI files below this folder.

    Returns:
        an `_Outcome`; a case that fails is reported, never raised.
    """
    try:
        with threadpool_limits(1):
            return _Outcome(case.case_id,
                            _convert(case, recipe, target, fold, shard, processed_root), None)
    except CaseError as error:
        return _Outcome(case.case_id, None, str(error))
    except OSError as error:
        return _Outcome(case.case_id, None, f"{case.case_id}: {error}")
    except Exception as error:  # noqa: B902 - one case's surprise must not cost the others
        where = traceback.extract_tb(error.__traceback__)[-1]
        return _Outcome(case.case_id, None, f"{case.case_id}: a bug of ours, "
                        f"{type(error).__name__}: {error} ({Path(where.filename).name}:"
                        f"{where.lineno})")


def _convert(case, recipe, target, fold, shard, processed_root):
    import tensorflow as tf  # late: the parent plans without it

    from brats_tfrecord.records import example

    raw = nifti.read_case(case)
    preprocessed = recipe.apply(raw)
    with files.replacing(target) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        writer.write(example.encode(raw, preprocessed, recipe))
    if processed_root is not None:
        write_processed(processed_root, raw, preprocessed, recipe)
    inputs = {name: files.sha256(path) for name, path in case.images.items()}
    if case.mask is not None:
        inputs["seg"] = files.sha256(case.mask)
    return manifest.CaseRow(
        case_id=case.case_id, patient_id=case.patient_id, grade=case.grade,
        labelled=case.mask is not None, fold=fold, shard=shard, inputs=inputs,
        brain_voxels=preprocessed.brain_voxels, brain_voxels_lost=preprocessed.brain_voxels_lost,
        tumour_voxels_lost=len(preprocessed.outside_index),
        class_voxels=preprocessed.class_voxels, warnings=preprocessed.warnings)


def _convert_shards(plans, cases, recipe, options, root, work):
    """Runs all cases; seals each shard as soon as the last of its cases is done."""
    plan_of = {case_id: plan for plan in plans for case_id in plan.case_ids}
    waiting = {plan.name: set(plan.case_ids) for plan in plans}
    outcomes = {}
    processed_root = root if options.write_nifti else None
    tasks = (
        joblib.delayed(convert_case)(cases[case_id], recipe, work / f"{case_id}.tfrecord",
                                     plan.fold, plan.name, processed_root)
        for plan in plans for case_id in plan.case_ids
    )
    with _hidden_gpus(), joblib.Parallel(options.jobs, "loky", "generator_unordered") as parallel:
        progress = tqdm(parallel(tasks), total=len(plan_of), unit="case", desc="converting",
                        dynamic_ncols=True)
        for outcome in progress:
            outcomes[outcome.case_id] = outcome
            if outcome.reason:
                tqdm.write(f"failed: {outcome.reason}")
            for warning in outcome.row.warnings if outcome.row else ():
                tqdm.write(f"warning: {outcome.case_id}: {warning}")
            plan = plan_of[outcome.case_id]
            waiting[plan.name].discard(outcome.case_id)
            if not waiting[plan.name]:
                _seal(plan, [outcomes.pop(case_id) for case_id in plan.case_ids], recipe, root,
                      work, options.input_dir)


def _seal(plan, outcomes, recipe, root, work, input_dir):
    """Concatenates the finished cases of a shard, then writes the sidecar that proves it."""
    rows = [outcome.row for outcome in outcomes if outcome.row]
    parts = [work / f"{row.case_id}.tfrecord" for row in rows]
    with files.replacing(root / plan.name) as temporary, open(temporary, "wb") as shard:
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, shard, 1 << 22)
    for part in parts:
        part.unlink()
    # Reasons name files as the user gave them; a dataset knows no paths outside itself.
    failures = [manifest.Failure(outcome.case_id,
                                 outcome.reason.replace(f"{Path(input_dir)}{os.sep}", ""))
                for outcome in outcomes if outcome.reason]
    path = root / plan.name
    shard = manifest.Shard(plan.name, plan.fold, len(rows), path.stat().st_size, files.sha256(path))
    files.write_json(root / plan.sidecar, manifest.sidecar(shard, recipe, rows, failures))


def _plan(cases, options):
    """Deals labelled patients to folds and cases to shards."""
    grades = {case.patient_id: case.grade for case in cases if case.mask is not None}
    fold_of_patient = shards.assign_folds(grades, options.folds, options.seed)
    fold_of_case = {case.case_id: fold_of_patient[case.patient_id] if case.mask is not None
                    else None for case in cases}
    return shards.plan_shards(fold_of_case, options.cases_per_shard, options.seed)


def _common_scheme(cases):
    names = sorted({case.label_scheme for case in cases})
    if len(names) > 1:
        raise InputError(f"--input_dir: mixes label schemes {', '.join(names)}; convert each "
                         "release on its own")
    return spec.LABEL_SCHEMES[names[0]]


def _check_output(root):
    if root.exists() and not root.is_dir():
        raise InputError(f"--output_dir={root}: is a file; expected a folder")
    if (root / manifest.FILE_NAME).exists():
        raise InputError(f"--output_dir={root}: already holds a finished dataset; name another "
                         "folder, or remove this one")


def _refuse_empty(root, plans):
    """A dataset without one record is none: clears it away and says why it is empty."""
    sidecars = [json.loads((root / plan.sidecar).read_text()) for plan in plans]
    if any(entry["cases"] for entry in sidecars):
        return
    failures = [failure for entry in sidecars for failure in entry["failures"]]
    _clear(root)
    raise InputError(f"none of the {len(failures)} cases could be converted; the first: "
                     f"{failures[0]['reason']}")


def _clear(root):
    """Removes what an unfinished conversion left behind, by our own names only."""
    shutil.rmtree(root / WORK_FOLDER, ignore_errors=True)
    for path in root.glob("*.tfrecord"):
        if shards.parse_shard_name(path.name):
            path.unlink()
            (root / shards.sidecar_name(path.name)).unlink(missing_ok=True)


def _parse_window(text):
    """"48:192,48:192,5:149" to ((48, 48, 5), (144, 144, 144))."""
    try:
        bounds = [tuple(int(bound) for bound in axis.split(":")) for axis in text.split(",")]
        if len(bounds) != 3 or any(len(b) != 2 or not 0 <= b[0] < b[1] for b in bounds):
            raise ValueError
    except ValueError as error:
        raise InputError(f"--crop_window={text}: expected first:end of x,y,z in voxels, such as "
                         "48:192,48:192,5:149") from error
    return tuple(low for low, _ in bounds), tuple(high - low for low, high in bounds)


@contextlib.contextmanager
def _hidden_gpus():
    """Workers inherit this environment: none of them may take a GPU's memory."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _versions(recipe):
    """Versions of what shaped the bytes."""
    names = ["numpy", "nibabel", "tensorflow"]
    if recipe.bias_correction == "ants" or recipe.bias_mask == "get_mask":
        names.append("antspyx")
    return {"brats-tfrecord": __version__, **{name: metadata.version(name) for name in names}}


def _print_ledger(result):
    """What the crop cost, summed over the cohort."""
    if not result.cases:
        return
    brain = sum(case.brain_voxels for case in result.cases)
    brain_lost = sum(case.brain_voxels_lost for case in result.cases)
    tumour = sum(sum(case.class_voxels[1:]) for case in result.cases)
    tumour_lost = sum(case.tumour_voxels_lost for case in result.cases)
    print(f"Outside the crop: {brain_lost / max(brain, 1):.1%} of the brain, "
          f"{tumour_lost / max(tumour, 1):.2%} of the tumour ({tumour_lost:,} voxels)")
