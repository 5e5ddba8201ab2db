"""Runs a SavedModel over a cohort and writes what came of it."""

import contextlib
from importlib import metadata
from pathlib import Path

from brats_tfrecord import __version__, files, metrics
from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.records.task import DISK_FULL
from brats_tfrecord.report import compare, headline, html, journal, subjects, tables
from brats_tfrecord.report.baselines import Baselines
from brats_tfrecord.report.examine import Examiner
from brats_tfrecord.report.figures import Picture
from brats_tfrecord.report.gallery import caption, choose
from brats_tfrecord.report.progress import Progress
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving.predict import Segmenter


def evaluate(options):
    """Evaluates in native space and writes the report; prints the headline.

    Each finished case is kept in `OUTPUT_DIR/.evaluation/` at once. Stopped by whatever means, the
    same command goes on from there, and ends with the same `metrics.csv` but for the seconds.

    Args:
        options: `report.options.EvaluateOptions`.

    Returns:
        list of `tables.CaseResult`, one a case.

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
    source = (subjects.from_files(options, card) if options.data_dir is None else
              subjects.from_dataset(options.data_dir, options.fold or "0", card))
    rule_set = metrics.RULE_SETS[options.rules]
    other = None
    if options.compare is not None:
        other = compare.read(options.compare, rule_set, _headline_ids(source.cases, card))
    segmenter = Segmenter(options.model, cover=options.cover)
    files.require_writable("--output_dir", root)
    fingerprint = cards.fingerprint(options.model)
    identity = _identity(options, source, fingerprint)
    case_ids = [case.case_id for case in source.cases]
    with _full_disk_named(root), journal.opened(root, identity, case_ids) as kept:
        files.remove_orphans(root, deep=False)
        files.remove_orphans(root / "segmentations")
        rows = _rows(source, Examiner(segmenter, options, kept), options)
        comparison = None if other is None else compare.compare(rows, other, rule_set)
        _write(root, rows, rule_set, comparison, kept, options,
               _header(options, card, fingerprint), identity)
        kept.remove()
    return rows


@contextlib.contextmanager
def _full_disk_named(root):
    """Says of a full disk how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise Stopped(f"--output_dir={root}: the disk is full; make room and run the same command "
                      "again, what is done is kept") from error


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
        progress.say(f"stopped; {progress.done} of {len(source.cases)} cases are done and kept in "
                     f"--output_dir={options.output_dir}; run the same command again to go on")
        raise
    progress.close()
    return rows


def _headline_ids(cases, card):
    """Ids of the labelled cases that are the best evidence there is."""
    uses = {case.case_id: card.use_of(case.case_id) for case in cases if case.labelled}
    best = next((use for use in tables.USES if use in uses.values()), None)
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
    source = (f"{options.data_dir}, fold {options.fold or 0}" if options.data_dir
              else options.input_dir)
    return {
        "evaluated": source,
        "predicted": ("the recipe's window" if options.cover == "window"
                      else "the window and the rest of the brain"),
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


def _write(root, rows, rule_set, comparison, kept, options, header, identity):
    """Writes tables and report, prints the headline and where they lie."""
    scores = Baselines(kept).dice(rows) if options.threshold_baselines else []
    tables.write_csv(root / "metrics.csv", rows, rule_set)
    tables.write_json(root / "metrics.json", rows, rule_set, header, comparison, identity)
    html.write_report(root / "report.html", header=header, rows=rows, rule_set=rule_set,
                      pictures=_pictures(rows, kept, options.pictures), baselines=scores,
                      comparison=comparison)
    for line in headline.lines(rows, rule_set, scores):
        print(line)
    if options.compare is not None:
        for line in headline.comparison_lines(comparison, options.compare):
            print(line)
    print(f"Report: {root / 'report.html'}")


def _pictures(rows, kept, limit):
    """The `figures.Picture`s of the cases worth showing; one that was not drawn is no candidate."""
    drawn = [row for row in rows if limit and kept.file(row.case_id, "picture.png").is_file()]
    return [Picture(row.case_id, heading, caption(row),
                    kept.file(row.case_id, "picture.png").read_bytes())
            for row, heading in choose(drawn, limit)]
