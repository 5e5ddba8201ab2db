"""Runs a SavedModel over a cohort: every case segmented, scored and kept."""

import contextlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from brats_tfrecord import __version__, files, metrics
from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.evaluation import case_results, compare, result_store, subjects
from brats_tfrecord.evaluation.baselines import Baselines
from brats_tfrecord.evaluation.case_progress import Progress
from brats_tfrecord.evaluation.evaluate_options import EvaluateOptions
from brats_tfrecord.evaluation.examine import Examiner
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving.predict import Segmenter


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        options: the `EvaluateOptions`.
        rows: `case_results.CaseResult`s, one a case.
        rule_set: the `metrics.RuleSet` that their metrics follow.
        header: what the figures rest on (model, recipe, versions), JSON-safe.
        identity: what shapes every row alike, as in `result_store.opened`; JSON-safe.
        baselines: (name, region -> mean Dice) of simpler methods over the headline's cases.
        comparison: `compare.Comparison` with another evaluation, or None.
        pictures: case id -> file of its PNG, of the cases that were drawn.
    """

    options: EvaluateOptions
    rows: list[case_results.CaseResult]
    rule_set: metrics.RuleSet
    header: dict
    identity: dict
    baselines: list
    comparison: compare.Comparison | None
    pictures: dict[str, Path]


def evaluate(options, *, draw, publish):
    """Evaluates in native space.

    Each finished case is kept in `OUTPUT_DIR/.evaluation/` at once. Stopped by whatever means, the
    same command goes on from there, and ends with the same figures but for the seconds.

    Args:
        options: `evaluate_options.EvaluateOptions`.
        draw: function (volume, truth, prediction, title, spacing_mm) -> PNG bytes of a case.
        publish: function (`Evaluation`) that writes the report. The kept results are removed when
            it returns.

    Returns:
        list of `case_results.CaseResult`, one a case.

    Raises:
        InputError: no model, no cohort, a dataset that does not fit the model, nothing to compare
            with, or a folder that holds another evaluation; nothing was written.
        Stopped: the disk is full; what is done is kept.
    """
    # What can be refused by looking is, before the model is loaded.
    root = Path(options.output_dir)
    if root.exists() and not root.is_dir():
        raise InputError(f"--output_dir={root}: is a file; expected a folder")
    card = cards.read(options.model)
    source = (
        subjects.from_files(options, card)
        if options.data_dir is None
        else subjects.from_dataset(options.data_dir, options.fold or "0", card)
    )
    rule_set = metrics.RULE_SETS[options.rules]
    other = None
    if options.compare is not None:
        other = compare.read(options.compare, rule_set, _headline_ids(source.cases, card))
    segmenter = Segmenter(options.model, cover=options.cover)
    files.require_writable("--output_dir", root)
    fingerprint = cards.fingerprint(options.model)
    identity = _identity(options, source, fingerprint)
    case_ids = [case.case_id for case in source.cases]
    with _full_disk_named(root), result_store.opened(root, identity, case_ids) as kept:
        files.remove_orphans(root, deep=False)
        files.remove_orphans(root / "segmentations")
        rows = _rows(source, Examiner(segmenter, options, kept, draw), options)
        publish(
            Evaluation(
                options=options,
                rows=rows,
                rule_set=rule_set,
                header=_header(options, card, fingerprint),
                identity=identity,
                baselines=Baselines(kept).dice(rows) if options.threshold_baselines else [],
                comparison=None if other is None else compare.compare(rows, other, rule_set),
                pictures=_pictures(rows, kept) if options.pictures else {},
            )
        )
        kept.remove()
    return rows


@contextlib.contextmanager
def _full_disk_named(root):
    """Says of a full disk how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in files.DISK_FULL:
            raise
        raise Stopped(
            f"--output_dir={root}: the disk is full; make room and run the same command "
            "again, what is done is kept"
        ) from error


def _rows(source, examiner, options):
    """The row of every case: an earlier run's, or a new one."""
    progress, rows = Progress(len(source.cases)), []
    for note in source.notes:
        progress.say(f"note: {note}")
    try:
        for subject in source.cases:
            row, was_there = examiner.row(subject)
            if row.status == "failed":
                progress.say(f"failed: {row.reason}")
            for warning in row.warnings:
                progress.say(f"warning: {row.case_id}: {warning}")
            rows.append(row)
            progress.advance(was_there)
    except KeyboardInterrupt:
        progress.close()
        progress.say(
            f"stopped; {progress.done} of {len(source.cases)} cases are done and kept in "
            f"--output_dir={options.output_dir}; run the same command again to go on"
        )
        raise
    progress.close()
    return rows


def _headline_ids(cases, card):
    """Ids of the labelled cases that are the best evidence there is."""
    uses = {case.case_id: card.use_of(case.case_id) for case in cases if case.labelled}
    best = next((use for use in case_results.USES if use in uses.values()), None)
    return [case_id for case_id, use in uses.items() if use == best]


def _identity(options, source, fingerprint):
    """What shapes every row alike: with another of it, rows of an earlier run are worth nothing."""
    return {
        "--model": fingerprint,
        **source.identity,
        "--rules": options.rules,
        "--cover": options.cover,
        "--threshold_baselines": options.threshold_baselines,
        "brats-tfrecord": __version__,
        **{name: metadata.version(name) for name in ("tensorflow", "numpy", "scipy")},
    }


def _header(options, card, fingerprint):
    source = (
        f"{options.data_dir}, fold {options.fold or 0}" if options.data_dir else options.input_dir
    )
    return {
        "evaluated": source,
        "predicted": (
            "the recipe's window"
            if options.cover == "window"
            else "the window and the rest of the brain"
        ),
        "model_sha256": fingerprint,
        "model_modalities": list(card.modalities),
        "label_scheme": card.label_scheme,
        "recipe": card.recipe.to_json(),
        "post_processing": card.post_processing.to_json(),
        "flips": card.flips,
        "members": card.members,
        "trained_on_dataset_sha256": card.dataset_fingerprint,
        "versions": {"brats-tfrecord": __version__, **card.training.get("versions", {})},
    }


def _pictures(rows, kept):
    """Case id -> file of its picture; a case that could not be drawn has none."""
    paths = {row.case_id: kept.file(row.case_id, "picture.png") for row in rows}
    return {case_id: path for case_id, path in paths.items() if path.is_file()}
