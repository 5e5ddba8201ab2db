"""Paired comparison of two evaluations of the same cases."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brats_tfrecord import files, spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.evaluation import case_results
from brats_tfrecord.evaluation.case_results import CaseResult
from brats_tfrecord.evaluation.intervals import bootstrap_means, patient_means
from brats_tfrecord.evaluation.signed_rank import MIN_DIFFERENCES, signed_rank_test
from brats_tfrecord.metrics import RuleSet


@dataclass(frozen=True)
class OtherEvaluation:
    """Another evaluation, read from its metrics.json.

    Attributes:
        header: the file's header.
        rows: case id -> row of the file, for the cases with metrics.
    """

    header: dict
    rows: dict[str, dict]


@dataclass(frozen=True)
class Comparison:
    """This evaluation ("here") and another ("there") over the cases that have metrics in both.

    Attributes:
        other: header of the other evaluation.
        use: use of the compared cases by the model of this evaluation, one of
            `case_results.USES`.
        cases: number of compared cases; all are cases of this evaluation's headline.
        met_there: number of them that trained or selected the other model, which favours it.
        only_here, only_there: number of cases with metrics on one side only; `only_here` counts
            cases of the headline.
        table: structure -> metric -> {"here", "there" (means), "difference" (mean of here - there
            over the pairs), "low", "high" (95 % bootstrap interval over patients, None below two),
            "p" (two-sided exact Wilcoxon signed-rank test of the patients' mean differences; None
            if fewer than `signed_rank.MIN_DIFFERENCES` patients differ, which cannot reach 5 %),
            "differing" (patients whose mean difference is not 0), "patients", "n" (pairs)}. A
            pair counts if the metric is defined on both sides; means are None if n is 0.
        pairs: region -> list of (case id, Dice here, Dice there).
    """

    other: dict
    use: str
    cases: int
    met_there: int
    only_here: int
    only_there: int
    table: dict[str, dict[str, dict[str, float | None]]]
    pairs: dict[str, list[tuple[str, float, float]]]


def read(path: Path | str, rule_set: RuleSet, case_ids: Collection[str]) -> OtherEvaluation:
    """Reads the metrics.json of another evaluation and checks that it can be compared.

    Args:
        path: the file.
        rule_set: rule set of this evaluation.
        case_ids: ids of the cases in this evaluation's headline.

    Raises:
        InputError: not a metrics.json of evaluate.py, another rule set, no case in common, or
            another definition of HD95.
    """
    flag = f"--compare={path}"
    if Path(path).is_dir():
        raise InputError(f"{flag}: is a folder; expected the metrics.json in it")
    try:
        value = files.read_json(path)
        rules, header = value["rules"], dict(value["header"])
        rows = {row["case_id"]: row for row in map(_checked, value["rows"]) if row["metrics"]}
    except OSError as error:
        raise InputError(
            f"{flag}: cannot be read ({error.strerror}); expected the metrics.json of "
            "another evaluation"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)[:80]
        raise InputError(
            f"{flag}: is not a metrics.json of evaluate.py, or is damaged ({reason}); "
            "expected the file in the --output_dir of another evaluation"
        ) from error
    if rules != rule_set.name:
        raise InputError(
            f"{flag}: was evaluated with --rules={rules}, this evaluation uses {rule_set.name}; "
            "expected the same rules: repeat one of the evaluations with the --rules of the other"
        )
    if not rows.keys() & set(case_ids):
        raise InputError(
            f"{flag}: none of its {len(rows)} cases with metrics is among the "
            f"{len(set(case_ids))} compared here; expected an evaluation of the same "
            "cases: use the same --fold or --input_dir for both"
        )
    if value.get("hd95") != rule_set.hd95_definition:
        raise InputError(
            f"{flag}: its HD95 is of another definition ({value.get('hd95') or 'not stated'}) than "
            f"here ({rule_set.hd95_definition}); evaluate the other model again with this version"
        )
    return OtherEvaluation(header, rows)


def compare(
    rows: Sequence[CaseResult], other: OtherEvaluation, rule_set: RuleSet
) -> Comparison | None:
    """Compares the headline cases of `rows` with the same cases of `other`.

    Args:
        rows: results of this evaluation.
        other: the other evaluation.
        rule_set: rule set of both.

    Returns:
        The comparison, or None if the other evaluation has no case of this one's headline.
    """
    use, selected = case_results.headline_use(rows), case_results.headline_rows(rows)
    pairs = [(row, other.rows[row.case_id]) for row in selected if row.case_id in other.rows]
    if use is None or not pairs:
        return None
    return Comparison(
        other=other.header,
        use=use,
        cases=len(pairs),
        met_there=sum(there["use"] != "unseen" for _, there in pairs),
        only_here=len(selected) - len(pairs),
        only_there=len(other.rows.keys() - {row.case_id for row in rows if row.status == "ok"}),
        table=_table(pairs, case_results.structures(rows), rule_set.metrics),
        pairs={
            region: [
                (here.case_id, *dice)
                for here, there in pairs
                if None not in (dice := _values(here, there, region, "dice"))
            ]
            for region in spec.REGIONS
        },
    )


def _table(pairs, structures, metrics):
    columns = [(structure, metric) for structure in structures for metric in metrics]
    values = np.array(
        [[_values(here, there, *column) for column in columns] for here, there in pairs], float
    )  # [pairs, columns, (here, there)]
    patients = [here.patient_id for here, _ in pairs]
    differences = values[..., 0] - values[..., 1]
    intervals = bootstrap_means(differences, patients)
    by_patient = patient_means(differences, patients)
    table: dict[str, dict] = {structure: {} for structure in structures}
    for index, ((structure, metric), interval) in enumerate(zip(columns, intervals)):
        defined = ~np.isnan(differences[:, index])
        low, high = interval or (None, None)
        here, there = (_mean(values[defined, index, side]) for side in (0, 1))
        test = signed_rank_test(by_patient[:, index])
        table[structure][metric] = {
            "here": here,
            "there": there,
            "difference": _mean(differences[defined, index]),
            "low": low,
            "high": high,
            "p": test.p if test.differing >= MIN_DIFFERENCES else None,
            "differing": test.differing,
            "patients": int(np.count_nonzero(~np.isnan(by_patient[:, index]))),
            "n": int(np.count_nonzero(defined)),
        }
    return table


def _values(here, there, structure, metric):
    """(value here, value there) of a metric; None where undefined or missing from the file."""
    return here.metrics[structure][metric], there["metrics"].get(structure, {}).get(metric)


def _mean(values):
    return float(values.mean()) if values.size else None


def _checked(row):
    """Returns a row of a metrics.json; raises ValueError if a value has the wrong type."""
    if not isinstance(row["case_id"], str) or row["use"] not in case_results.USES:
        raise ValueError(f"a row has case_id {row['case_id']!r} and use {row['use']!r}")
    for structure, values in (row["metrics"] or {}).items():
        for metric, value in values.items():
            if not isinstance(value, (int, float, type(None))):
                raise ValueError(f"{row['case_id']}: {structure} {metric} is {value!r}")
    return row
