"""Converts a cohort into a dataset, and takes up again what an earlier run was stopped in.

The unit of work is a case: a worker turns one case into one framed record in the work folder; a
shard is the concatenation of its cases' records in fixed order. So jobs, backend and interruptions
never change a byte.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import shutil
import signal
from importlib import metadata
from pathlib import Path

import numpy as np
from tqdm import tqdm

from brats_tfrecord import __version__, files, spec
from brats_tfrecord.cohort import layouts, survey
from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.records import earlier, manifest, shards, work_folder
from brats_tfrecord.records.pool import WorkerKilled, open_pool
from brats_tfrecord.records.task import CaseTask, Settings, convert_case, killed_outcome


def convert(options):
    """Converts the cohort of `options.input_dir`, or finishes a conversion that was stopped.

    Prints what the cohort holds, a progress bar, each failed case with its reason, what the crop
    cost, and `Successfully processed k/n patients`. A finished dataset is kept as it is, but for
    cases that failed or whose files changed: those are tried again.

    Args:
        options: `records.convert_options.ConvertOptions`.

    Returns:
        the `manifest.ConversionSummary` of the finished dataset; `failures` names the cases left out.

    Raises:
        InputError: nothing was written: no cohort, no usable case, folds that do not work, or an
            output folder that holds another dataset.
        Stopped: interrupted, told to stop, or the disk is full; what is done is kept.
    """
    cohort = layouts.find_cohort(
        os.path.abspath(options.input_dir), options.layout, options.label_scheme
    )
    cases = {case.case_id: case for case in cohort.cases}
    plans = _plan(cohort.cases, options)
    root = Path(os.path.abspath(options.output_dir))
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
    _refuse_nested(cohort.root, root)
    earlier.check(root, plans, head)
    print(*survey.summary(cohort), sep="\n", flush=True)
    files.require_writable("--output_dir", root)
    with work_folder.locked(root) as work:
        files.remove_orphans(root)
        settings = Settings(
            recipe,
            head.how_to_read,
            head.versions,
            work.path,
            root if options.write_nifti else None,
        )
        conversion = _Conversion(root, work, plans, cases, settings, cohort.root)
        workers = options.workers().for_tasks(len(cases))
        with _stoppable(conversion):
            earlier.remember(work, head)
            with open_pool(workers) as run:
                conversion.run(run, workers)
            summary = conversion.finish(head)
        work_folder.remove(work)
    _print_summary(summary, len(cases))
    return summary


class _Conversion:
    """A conversion under way: what is planned, what is done, what waits for its shard."""

    def __init__(self, root, work, plans, cases, settings, input_dir):
        self.root, self.total, self.done = root, len(cases), 0
        self._work, self._plans, self._cases, self._settings = work, plans, cases, settings
        # Reasons name files as the user gave them; a dataset knows no paths outside itself.
        self._prefix = f"{input_dir}{os.sep}"
        self._said, self._first_reason, self._successes = set(), None, 0

    def run(self, run, workers):
        """Converts whatever no earlier run has left whole, and seals shard by shard."""
        kept = earlier.keep(self.root, self._plans, self._cases, self._settings, run)
        todo = [plan for plan in self._plans if plan.name not in kept]
        plan_of = {case_id: plan for plan in todo for case_id in plan.case_ids}
        waiting = {plan.name: {} for plan in todo}
        self.done = self._successes = self.total - len(plan_of)
        tasks = {case_id: CaseTask(self._cases[case_id], self._settings) for case_id in plan_of}
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
                self._tell(outcome)
                progress.update()
                plan = plan_of.pop(outcome.case_id)
                waiting[plan.name][outcome.case_id] = outcome
                if len(waiting[plan.name]) == len(plan.case_ids):
                    self._seal(plan, waiting.pop(plan.name))

    def finish(self, head):
        """Writes the manifest; a dataset without one record is none, and goes."""
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
        """About what the cases that are not done will take on the disk."""
        recipe = self._settings.recipe
        voxel = len(spec.MODALITIES) * np.dtype(recipe.image_dtype).itemsize + 1
        return (self.total - self.done + 1) * math.prod(recipe.crop_shape) * voxel

    def _tell(self, outcome):
        """Says at once what failed, and each warning when it first comes up."""
        self.done += 1
        if outcome.reason:
            self._first_reason = self._first_reason or outcome.reason
            tqdm.write(f"failed: {outcome.reason}")
            return
        self._successes += 1
        for warning in set(outcome.row.warnings) - self._said:
            self._said.add(warning)
            tqdm.write(f"warning: {outcome.case_id}: {warning}")

    def _seal(self, plan, outcomes):
        """Concatenates the finished cases of a shard, then writes the sidecar that proves it."""
        ordered = [outcomes[case_id] for case_id in plan.case_ids]
        rows = [
            dataclasses.replace(outcome.row, fold=plan.fold, shard=plan.name)
            for outcome in ordered
            if outcome.row
        ]
        digest, size = hashlib.sha256(), 0
        with files.replacing(self.root / plan.name) as temporary:
            with open(temporary, "wb") as shard:
                for row in rows:
                    record = self._work.record(row.key).read_bytes()
                    digest.update(record)
                    size += shard.write(record)
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
    """Yields an `Outcome` for every task, whatever becomes of the workers.

    When a worker is killed, the cases that were under way are tried again one at a time, so that
    the one to blame is found out; the rest goes on with half the workers.

    Args:
        run: as from `pool.open_pool`.
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
                f"{', '.join(suspects) or 'no case'} was under way and is tried again "
                f"alone, then the rest with {workers.count} worker(s)"
            )
            for case_id in suspects:
                yield _alone(run, tasks.pop(case_id), workers)


def _alone(run, task, workers):
    """The `Outcome` of a case that has the machine for itself, killed or not."""
    try:
        [outcome] = run(convert_case, [task], workers.with_jobs(1))
        return outcome
    except WorkerKilled:
        return killed_outcome(task.case.case_id)


@contextlib.contextmanager
def _stoppable(conversion):
    """Turns SIGINT, SIGTERM and a full disk into `Stopped`, which says how to go on."""
    state = f"--output_dir={conversion.root}"
    try:
        with _sigterm_raises():
            yield
    except KeyboardInterrupt as error:
        code = 75 if isinstance(error, _Terminated) else 130
        raise Stopped(
            f"stopped; {conversion.done} of {conversion.total} cases are done and kept; "
            "run the same command again to go on",
            code,
        ) from None
    except OSError as error:
        if error.errno not in files.DISK_FULL:
            raise
        free = shutil.disk_usage(conversion.root).free / 1e6
        raise Stopped(
            f"{state}: the disk is full ({free:,.0f} MB free); {conversion.done} of "
            f"{conversion.total} cases are done and kept; make room for about "
            f"{conversion.bytes_needed() / 1e6:,.0f} MB and run the same command again "
            "to go on"
        ) from None


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems send it before they kill."""


@contextlib.contextmanager
def _sigterm_raises():
    def stop(number, frame):
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever called us has the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse_nested(input_dir, output_dir):
    """What is written among the cases would be found as cases the next time."""
    if Path(output_dir).resolve().is_relative_to(Path(input_dir).resolve()):
        raise InputError(
            f"--output_dir={output_dir}: lies within --input_dir={input_dir}; name a "
            "folder outside of it"
        )


def _plan(cases, options):
    """Deals labelled patients to folds and cases to shards."""
    grades = {case.patient_id: case.grade for case in cases if case.mask is not None}
    fold_of_patient = shards.assign_folds(grades, options.folds, options.seed)
    fold_of_case = {
        case.case_id: fold_of_patient[case.patient_id] if case.mask is not None else None
        for case in cases
    }
    return shards.plan_shards(fold_of_case, options.cases_per_shard, options.seed)


def _versions(recipe):
    """Versions of what shapes the bytes."""
    names = ["numpy", "nibabel"]
    if recipe.bias_correction == "ants" or recipe.bias_mask == "get_mask":
        names.append("antspyx")
    if recipe.resample != "none":
        names.append("scipy")
    return {"brats-tfrecord": __version__, **{name: metadata.version(name) for name in names}}


def _print_summary(summary, total):
    """What the crop cost, summed over the cohort, and how many cases came through."""
    print(
        f"Outside the crop: {summary.brain_voxels_lost / max(summary.brain_voxels, 1):.1%} of the "
        f"brain, {summary.tumour_voxels_lost / max(summary.tumour_voxels, 1):.2%} of the tumour "
        f"({summary.tumour_voxels_lost:,} voxels)"
    )
    for one, other in summary.twins[:5]:
        print(
            f"warning: {one} and {other} have byte for byte the same images; if they are one "
            "patient, folds leak"
        )
    print(f"Successfully processed {summary.cases}/{total} patients")
