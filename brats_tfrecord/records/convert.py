"""Converts a cohort into a dataset, or resumes a conversion that was stopped.

A worker converts one case into one framed record in the work folder. A shard is the concatenation
of the records of its cases in a fixed order. The bytes of a dataset therefore do not depend on the
number of jobs, the backend or interruptions.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import shutil
from importlib import metadata
from pathlib import Path

import numpy as np
from tqdm import tqdm

from brats_tfrecord import __version__, files, spec, stopping
from brats_tfrecord.cohort import layouts, survey
from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.records import manifest, resume, shards, tfrecord, work_folder
from brats_tfrecord.records.convert_options import ConvertOptions
from brats_tfrecord.records.pool import WorkerKilled, open_pool
from brats_tfrecord.records.task import CaseTask, Outcome, Settings, convert_case, killed_outcome
from brats_tfrecord.wording import plural


def convert(options: ConvertOptions) -> manifest.ConversionSummary:
    """Converts the cohort of `options.input_dir`, or resumes a conversion that was stopped.

    Prints a summary of the cohort, a progress bar, each failed case with its reason, the voxels
    lost to the crop, and `Successfully processed k/n patients`. A finished dataset is kept, except
    that failed cases and cases whose files have changed are converted again.

    Returns:
        the summary of the finished dataset; its `failures` are the cases that were left out.

    Raises:
        InputError: nothing was written: no cohort, no usable case, unsuitable folds, or an output
            folder that holds another dataset.
        Stopped: stopped by a signal or a full disk; finished cases are kept.
    """
    cohort = layouts.find_cohort(
        os.path.abspath(options.input_dir or ""), options.layout, options.label_scheme
    )
    cases = {case.case_id: case for case in cohort.cases}
    plans = _plan(cohort.cases, options)
    root = Path(os.path.abspath(options.output_dir or ""))
    recipe = options.recipe()
    head = manifest.Head(
        recipe,
        cohort.layout,
        options.how_to_read(),
        spec.LABEL_SCHEMES[cohort.label_scheme],
        options.folds,
        options.seed,
        _versions(recipe),
    )
    files.require_outside("--output_dir", root, "--input_dir", cohort.root)
    resume.check(root, plans, head)
    print(*survey.summary(cohort, options.allow_missing), sep="\n", flush=True)
    files.require_writable("--output_dir", root)
    with work_folder.locked(root) as work:
        files.remove_orphans(root)
        processed_root = root if options.write_nifti else None
        settings = Settings(recipe, head.how_to_read, head.versions, processed_root)
        conversion = _Conversion(root, work, plans, cases, settings, cohort.root)
        workers = options.workers().for_tasks(len(cases))
        with _stoppable(conversion):
            resume.remember(work, head)
            with open_pool(workers) as run:
                conversion.run(run, workers)
            summary = conversion.finish(head)
        work_folder.remove(work)
    _print_summary(summary, len(cases))
    return summary


class _Conversion:
    """A running conversion.

    Attributes:
        root: the dataset folder.
        total: number of cases.
        done: number of cases that were converted, kept or failed.
    """

    def __init__(self, root, work, plans, cases, settings, input_dir):
        self.root, self.total, self.done = root, len(cases), 0
        self._work, self._plans, self._cases, self._settings = work, plans, cases, settings
        # Reasons name absolute paths; a dataset holds no paths outside itself.
        self._prefix = f"{input_dir}{os.sep}"
        self._shown_warnings, self._first_reason, self._successes = set(), None, 0

    def run(self, run, workers):
        """Converts the cases that no earlier run has converted, and writes the shards."""
        kept = resume.keep(self._work, self.root, self._plans, self._cases, self._settings, run)
        todo = [plan for plan in self._plans if plan.name not in kept]
        plan_of = {case_id: plan for plan in todo for case_id in plan.case_ids}
        waiting: dict[str, dict[str, Outcome]] = {plan.name: {} for plan in todo}
        self.done = self._successes = self.total - len(plan_of)
        tasks = {
            case_id: CaseTask(self._cases[case_id], self._settings, self._work)
            for case_id in plan_of
        }
        outcomes = _outcomes(run, tasks, self._work, workers)
        with (
            contextlib.closing(outcomes),
            tqdm(
                total=self.total,
                initial=self.done,
                unit="case",
                desc="converting",
                dynamic_ncols=True,
            ) as progress,
        ):
            for outcome in outcomes:
                self._report(outcome)
                progress.update()
                plan = plan_of.pop(outcome.case_id)
                waiting[plan.name][outcome.case_id] = outcome
                if len(waiting[plan.name]) == len(plan.case_ids):
                    self._write_shard(plan, waiting.pop(plan.name))

    def finish(self, head):
        """Writes the manifest, or removes all shards and raises InputError if no case succeeded."""
        if self._successes:
            return manifest.write(self.root, self._plans, head)
        for plan in self._plans:
            (self.root / plan.sidecar).unlink()
            (self.root / plan.name).unlink()
        work_folder.remove(self._work)
        raise InputError(
            f"none of the {self.total} cases could be converted; the first: {self._first_reason}"
        )

    def bytes_needed(self):
        """Estimates the disk space that the remaining cases need."""
        recipe = self._settings.recipe
        voxel = len(spec.MODALITIES) * np.dtype(recipe.image_dtype).itemsize + 1
        return (self.total - self.done + 1) * math.prod(recipe.crop_shape) * voxel

    def _report(self, outcome):
        """Counts an outcome and prints its reason, or those warnings that are new."""
        self.done += 1
        if outcome.reason:
            self._first_reason = self._first_reason or outcome.reason
            tqdm.write(f"failed: {outcome.reason}")
            return
        self._successes += 1
        for warning in set(outcome.row.warnings) - self._shown_warnings:
            self._shown_warnings.add(warning)
            tqdm.write(f"warning: {outcome.case_id}: {warning}")

    def _write_shard(self, plan, outcomes):
        """Concatenates the records of a shard, then writes its sidecar."""
        ordered = [outcomes[case_id] for case_id in plan.case_ids]
        rows, digest, size = [], hashlib.sha256(), 0
        with files.replacing(self.root / plan.name) as temporary, open(temporary, "wb") as stream:
            for row in (outcome.row for outcome in ordered if outcome.row):
                rows.append(
                    dataclasses.replace(
                        row,
                        fold=plan.fold,
                        shard=plan.name,
                        record_offset=size + tfrecord.HEADER_BYTES,
                    )
                )
                record = self._work.record(row.key).read_bytes()
                digest.update(record)
                size += stream.write(record)
        failures = [
            manifest.Failure(outcome.case_id, outcome.reason.replace(self._prefix, ""))
            for outcome in ordered
            if outcome.reason
        ]
        shard = manifest.Shard(plan.name, plan.fold, len(rows), size, digest.hexdigest())
        files.write_json(
            self.root / plan.sidecar, manifest.sidecar(shard, self._settings.recipe, rows, failures)
        )
        for row in rows:
            self._work.drop(row.key)


def _outcomes(run, tasks, work, workers):
    """Yields an `Outcome` for every task, even if workers are killed.

    When a worker is killed, the cases that were running are tried again one at a time, to find the
    one that needs too much memory; the other cases are converted with half the workers.

    Args:
        run: function from `pool.open_pool`.
        tasks: case id -> `CaseTask`; emptied.
        work: `WorkFolder`.
        workers: `pool.Workers`.
    """
    while tasks:
        try:
            for outcome in run(convert_case, list(tasks.values()), workers):
                del tasks[outcome.case_id]
                yield outcome
        except WorkerKilled:
            suspects = [case_id for case_id in work.running() if case_id in tasks]
            if workers.count == 1 and not suspects:
                raise
            workers = workers.with_jobs(max(workers.count // 2, 1))
            tqdm.write(
                f"warning: a worker was killed, most likely for lack of memory; "
                f"{', '.join(suspects) or 'no case'} was running and is tried again alone, then "
                f"the other cases with {workers.count} worker(s)"
            )
            for case_id in suspects:
                yield _alone(run, tasks.pop(case_id), workers)


def _alone(run, task, workers):
    """Converts one case while no other is running."""
    try:
        [outcome] = run(convert_case, [task], workers.with_jobs(1))
        return outcome
    except WorkerKilled:
        return killed_outcome(task.case.case_id)


@contextlib.contextmanager
def _stoppable(conversion):
    """Turns SIGINT, SIGTERM and a full disk into `Stopped`."""
    try:
        with stopping.sigterm_raises():
            yield
    except KeyboardInterrupt as error:
        code = 75 if isinstance(error, stopping.Terminated) else 130
        raise Stopped(
            f"stopped; {conversion.done} of {conversion.total} cases are done and kept; "
            "run the same command again to continue",
            code,
        ) from None
    except OSError as error:
        if error.errno not in files.DISK_FULL:
            raise
        free = shutil.disk_usage(conversion.root).free / 1e6
        raise Stopped(
            f"--output_dir={conversion.root}: the disk is full ({free:,.0f} MB free); "
            f"{conversion.done} of {conversion.total} cases are done and kept; make room for about "
            f"{conversion.bytes_needed() / 1e6:,.0f} MB and run the same command again to continue"
        ) from None


def _plan(cases, options):
    """Assigns labelled patients to folds and cases to shards."""
    grades = {case.patient_id: case.grade for case in cases if case.mask is not None}
    fold_of_patient = shards.assign_folds(grades, options.folds, options.seed)
    fold_of_case = {
        case.case_id: fold_of_patient[case.patient_id] if case.mask is not None else None
        for case in cases
    }
    return shards.plan_shards(fold_of_case, options.cases_per_shard, options.seed)


def _versions(recipe):
    """Returns package -> version, of the packages that the records depend on."""
    names = ["numpy", "nibabel"]
    if recipe.bias_correction == "ants" or recipe.bias_mask == "get_mask":
        names.append("antspyx")
    if recipe.resample != "none":
        names.append("scipy")
    return {"brats-tfrecord": __version__, **{name: metadata.version(name) for name in names}}


def _print_summary(summary, total):
    """Prints the voxels lost to the crop, missing modalities, equal cases and converted cases."""
    print(
        f"Outside the crop: {summary.brain_voxels_lost / max(summary.brain_voxels, 1):.1%} of the "
        f"brain, {summary.tumour_voxels_lost / max(summary.tumour_voxels, 1):.2%} of the tumour "
        f"({summary.tumour_voxels_lost:,} voxels)"
    )
    if summary.missing:
        lacking = (
            f"{name} in {plural(summary.missing[name], 'case')}"
            for name in spec.MODALITIES
            if name in summary.missing
        )
        print(f"Missing, stored as zeros: {', '.join(lacking)}")
    for case_ids in summary.duplicates[:5]:
        print(
            f"warning: {' and '.join(case_ids)} have an image in common, voxel for voxel; "
            "if they are one patient, it may be in several folds: remove all cases but one"
        )
    print(f"Successfully processed {summary.cases}/{total} patients")
