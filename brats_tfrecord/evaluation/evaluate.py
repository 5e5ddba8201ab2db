"""Evaluates a SavedModel: segments and scores every case of a cohort or dataset."""

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from brats_tfrecord import __version__, files, metrics
from brats_tfrecord.errors import InputError, Stopped
from brats_tfrecord.evaluation import case_results, compare, result_store, rule_choice
from brats_tfrecord.evaluation.baselines import Baselines
from brats_tfrecord.evaluation.case_evaluator import CaseEvaluator, DrawCase
from brats_tfrecord.evaluation.case_progress import Progress
from brats_tfrecord.evaluation.evaluate_options import EvaluateOptions
from brats_tfrecord.evaluation.file_cases import from_files
from brats_tfrecord.evaluation.record_cases import from_dataset
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving import tuning
from brats_tfrecord.serving.predict import Segmenter
from brats_tfrecord.serving.recognition import BY_ID, GROUNDS, ID_ONLY


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        options: the options it was run with; `rules` is the name of the rule set chosen.
        rows: the result of each case.
        rule_set: the rule set of the metrics.
        header: model, recipe, versions and settings behind the results; JSON-serialisable.
        identity: flag -> value of everything that affects all cases alike; JSON-serialisable.
        baselines: (name, region -> mean Dice) of simpler methods over the headline's cases.
        comparison: comparison with another evaluation, or None.
        pictures: case id -> PNG file, for the cases with a picture.
    """

    options: EvaluateOptions
    rows: list[case_results.CaseResult]
    rule_set: metrics.RuleSet
    header: dict
    identity: dict
    baselines: list[tuple[str, dict[str, float]]]
    comparison: compare.Comparison | None
    pictures: dict[str, Path]


def evaluate(
    options: EvaluateOptions, *, draw: DrawCase, publish: Callable[[Evaluation], None]
) -> list[case_results.CaseResult]:
    """Evaluates a model on the original voxel grid of every case.

    Each finished case is saved in `OUTPUT_DIR/.evaluation/` at once. An interrupted evaluation is
    resumed by the same command and gives the same results, run times apart.

    Args:
        options: the evaluation's options.
        draw: draws a case's picture.
        publish: writes the report; the saved results are removed after it returns.

    Returns:
        The result of each case.

    Raises:
        InputError: no model, no cases, a dataset that does not fit the model, cases of challenges
            with different rules, nothing to compare with, or an output folder with another
            evaluation; nothing was written.
        Stopped: the disk is full; finished cases are saved.
    """
    root = Path(options.output_dir)
    # Inputs are checked before the model is loaded, which takes far longer.
    if root.exists() and not root.is_dir():
        raise InputError(f"--output_dir={root}: is a file; expected a folder")
    card = cards.read(options.model)
    _require_droppable(options, card)
    source = _source(options, card)
    rule_set, note = rule_choice.choose(options.rules, [case.case_id for case in source.cases])
    options = dataclasses.replace(options, rules=rule_set.name)
    if note is not None:
        source = dataclasses.replace(source, notes=(*source.notes, note))
    other = None
    if options.compare is not None:
        other = compare.read(options.compare, rule_set, _headline_ids(source.cases, card))
    segmenter = Segmenter(options.model)
    files.require_writable("--output_dir", root)
    fingerprint = cards.fingerprint(options.model)
    identity = _identity(options, source, fingerprint, rule_set)
    case_ids = [case.case_id for case in source.cases]
    with _disk_full_is_stopped(root), result_store.open_store(root, identity, case_ids) as store:
        files.remove_orphans(root, deep=False)
        files.remove_orphans(root / "segmentations")
        rows = _evaluate_cases(source, CaseEvaluator(segmenter, options, store, draw), options)
        publish(
            Evaluation(
                options=options,
                rows=rows,
                rule_set=rule_set,
                header=_header(options, card, fingerprint),
                identity=identity,
                baselines=Baselines(store).dice(rows) if options.threshold_baselines else [],
                comparison=None if other is None else compare.compare(rows, other, rule_set),
                pictures=_pictures(rows, store) if options.pictures else {},
            )
        )
        store.remove()
    return rows


def _source(options, card):
    """The cases of --input_dir or of --data_dir."""
    if options.data_dir is not None:
        return from_dataset(options.data_dir, options.fold or "0", card, options.dropped_modalities)
    return from_files(
        options.input_dir,
        card,
        options.layout,
        options.label_scheme,
        options.bare_mask_affine,
        options.dropped_modalities,
    )


def _require_droppable(options, card):
    """Raises InputError if the model does not read the dropped modalities, or needs them."""
    flag, dropped = f"--drop_modalities={options.drop_modalities}", options.dropped_modalities
    unread = [name for name in dropped if name not in card.modalities]
    if unread:
        raise InputError(
            f"{flag}: the model does not read {', '.join(unread)}; expected some of "
            f"{', '.join(card.modalities)}"
        )
    if dropped and set(dropped) == set(card.modalities):
        raise InputError(f"{flag}: the model reads no others; expected some of them")
    needed = card.missing.always_there(dropped)
    if needed:
        raise InputError(
            f"{flag}: the model was never trained without {', '.join(needed)}; evaluate one that "
            "was trained with --modality_dropout, or on cases that lack it"
        )


@contextlib.contextmanager
def _disk_full_is_stopped(root):
    """Turns the OSError of a full disk into `Stopped`, whose message says how to resume."""
    try:
        yield
    except OSError as error:
        if error.errno not in files.DISK_FULL:
            raise
        raise Stopped(
            f"--output_dir={root}: the disk is full; free some space and run the same command "
            "again: finished cases are saved"
        ) from error


def _evaluate_cases(source, evaluator, options):
    """Evaluates or restores every case, and reports progress; returns the results."""
    progress, rows, shown = Progress(len(source.cases)), [], set()
    for note in source.notes:
        progress.write(f"note: {note}")
    try:
        for case in source.cases:
            row, restored = evaluator.evaluate(case)
            if row.status == "failed":
                progress.write(f"failed: {row.reason}")
            for warning in row.warnings:
                if warning not in shown:  # the report names all its cases
                    progress.write(f"warning: {row.case_id}: {warning}")
            shown.update(row.warnings)
            rows.append(row)
            progress.advance(restored)
    except KeyboardInterrupt:
        progress.close()
        progress.write(
            f"stopped; {progress.done} of {len(source.cases)} cases are finished and saved in "
            f"--output_dir={options.output_dir}; run the same command again to resume"
        )
        raise
    progress.close()
    return rows


def _headline_ids(cases, card):
    """Ids of the labelled cases that will make the headline, unless one of them fails.

    Reads the images of cases in NIfTI files, because only their voxels tell who they are.
    """
    uses = {
        case.case_id: card.recognise(case.case_id, case.patient_id, case.voxels()).use
        for case in cases
        if case.labelled
    }
    best = next((use for use in case_results.USES if use in uses.values()), None)
    return [case_id for case_id, use in uses.items() if use == best]


def _identity(options, source, fingerprint, rule_set):
    """Everything that affects all cases alike; saved results of another identity are not used."""
    return {
        "--model": fingerprint,
        **source.identity,
        "--rules": rule_set.name,
        "HD95": rule_set.hd95_definition,
        "--threshold_baselines": options.threshold_baselines,
        **(
            {"--drop_modalities": sorted(dropped)}
            if (dropped := options.dropped_modalities)
            else {}
        ),
        "brats-tfrecord": __version__,
        **{name: metadata.version(name) for name in ("tensorflow", "numpy", "scipy")},
    }


def _header(options, card, fingerprint):
    source = (
        f"{options.data_dir}, fold {options.fold or 0}" if options.data_dir else options.input_dir
    )
    dropped = options.dropped_modalities
    return {
        "evaluated": source,
        **({"modalities_dropped": list(dropped)} if dropped else {}),
        "predicted": (
            "the crop window of each record"
            if options.data_dir
            else "the crop window and the brain outside it"
        ),
        "piece": card.piece.to_json(),
        "model_sha256": fingerprint,
        "model_modalities": list(card.modalities),
        "missing_modalities": card.missing.text(),
        "brain_channel": card.brain_channel,
        "label_scheme": card.label_scheme,
        "recipe": card.recipe.to_json(),
        "post_processing": card.post_processing.to_json(),
        "post_processing_gain": tuning.gain_text(card.training.get("post_processing")),
        "flips": card.flips,
        "members": card.members,
        "cases_recognised_by": [BY_ID] if card.recognises_by_id_only else list(GROUNDS),
        **({"recognition_caveat": ID_ONLY} if card.recognises_by_id_only else {}),
        "trained_on_dataset_sha256": card.dataset_fingerprint,
        "versions": {"brats-tfrecord": __version__, **card.training.get("versions", {})},
    }


def _pictures(rows, store):
    """Case id -> picture file; a case whose picture could not be drawn has none."""
    paths = {row.case_id: store.case_file(row.case_id, "picture.png") for row in rows}
    return {case_id: path for case_id, path in paths.items() if path.is_file()}
