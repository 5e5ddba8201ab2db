"""Two evaluations of the same cases: paired differences, and how sure they are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from brats_tfrecord import files, spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.evaluation import case_results
from brats_tfrecord.evaluation.intervals import bootstrap_means

FEWEST_FOR_P = 6
"""Below so many patients the signed-rank test cannot reach p < 0.05 on two sides."""


@dataclass(frozen=True)
class Other:
    """Another evaluation as its metrics.json tells it: header, and case id -> its row."""

    header: dict
    rows: dict


@dataclass(frozen=True)
class Comparison:
    """This evaluation ("here") beside another ("there"), over the cases that both have.

    Attributes:
        other: header of the other evaluation.
        use: what the compared cases were to the model here, one of `case_results.USES`.
        cases: compared cases, those of the headline that have metrics on both sides.
        met_there: how many of them had trained or selected the other model, which flatters it.
        only_here, only_there: cases with metrics on one side alone; here, of the headline.
        table: structure -> metric -> {"here", "there" (means), "difference" (mean of here - there
            over the pairs), "low", "high" (95 % bootstrap interval over patients, None below two),
            "p" (Wilcoxon signed-rank test on the patients' mean differences, two-sided; None where
            all are 0 or patients fewer than `FEWEST_FOR_P`), "n" (pairs)}. A pair counts where the
            figure is defined on both sides; means are None where n is 0.
        pairs: region -> list of (case id, Dice here, Dice there).
    """

    other: dict
    use: str
    cases: int
    met_there: int
    only_here: int
    only_there: int
    table: dict
    pairs: dict


def read(path, rule_set, case_ids):
    """Reads the metrics.json of another evaluation, and proves that it can be compared.

    Args:
        path: the file.
        rule_set: the `metrics.RuleSet` of this evaluation.
        case_ids: ids of the cases of this one that will make its headline.

    Returns:
        `Other`.

    Raises:
        InputError: no metrics.json of ours, other rules, or no case in common.
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
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)[:80]
        raise InputError(
            f"{flag}: is no metrics.json of evaluate.py, or damaged ({what}); "
            "expected the one in the --output_dir of another evaluation"
        ) from error
    if rules != rule_set.name:
        raise InputError(
            f"{flag}: its figures follow the rules {rules}, these {rule_set.name}; "
            f"expected the same: evaluate one of them again with the other's --rules"
        )
    if not rows.keys() & set(case_ids):
        raise InputError(
            f"{flag}: none of its {len(rows)} cases with metrics is among the "
            f"{len(set(case_ids))} compared here; expected an evaluation of the same "
            "cases: give the same --fold or --input_dir to both"
        )
    return Other(header, rows)


def compare(rows, other, rule_set):
    """Pairs the headline's cases of `rows` with those of `other`.

    Args:
        rows: `case_results.CaseResult`s of this evaluation.
        other: `Other`.
        rule_set: the `metrics.RuleSet` of both.

    Returns:
        `Comparison`, or None where no case of this evaluation's headline is among the other's.
    """
    use = case_results.headline_use(rows)
    chosen = [] if use is None else case_results.compared(rows, use)
    pairs = [(row, other.rows[row.case_id]) for row in chosen if row.case_id in other.rows]
    if not pairs:
        return None
    return Comparison(
        other=other.header,
        use=use,
        cases=len(pairs),
        met_there=sum(there["use"] != "unseen" for _, there in pairs),
        only_here=len(chosen) - len(pairs),
        only_there=len(other.rows.keys() - {row.case_id for row in rows if row.status == "ok"}),
        table=_table(pairs, case_results.structures(rows), rule_set.metrics),
        pairs={
            region: [
                (here.case_id, *dice)
                for here, there in pairs
                if None not in (dice := _both(here, there, region, "dice"))
            ]
            for region in spec.REGIONS
        },
    )


def _table(pairs, structures, metrics):
    columns = [(structure, metric) for structure in structures for metric in metrics]
    values = np.array(
        [[_both(here, there, *column) for column in columns] for here, there in pairs], float
    )  # [pairs, columns, here and there]
    values[np.isnan(values).any(axis=-1)] = np.nan
    patients = [here.patient_id for here, _ in pairs]
    differences = values[..., 0] - values[..., 1]
    intervals = bootstrap_means(differences, patients)
    table = {structure: {} for structure in structures}
    for index, ((structure, metric), interval) in enumerate(zip(columns, intervals)):
        known = ~np.isnan(differences[:, index])
        low, high = interval or (None, None)
        here, there = (_mean(values[known, index, side]) for side in (0, 1))
        table[structure][metric] = {
            "here": here,
            "there": there,
            "difference": _mean(differences[known, index]),
            "low": low,
            "high": high,
            "p": _p(differences[:, index], patients),
            "n": int(np.count_nonzero(known)),
        }
    return table


def _both(here, there, structure, metric):
    """(here, there) of a figure; None where it is undefined or the other has none of the kind."""
    return here.metrics[structure][metric], there["metrics"].get(structure, {}).get(metric)


def _mean(values):
    return float(values.mean()) if values.size else None


def _p(differences, patients):
    """Two-sided p of Wilcoxon's (1945) signed-rank test; zero differences are left out."""
    of_patient = {}
    for patient, difference in zip(patients, differences):
        if not np.isnan(difference):
            of_patient.setdefault(patient, []).append(difference)
    means = [float(np.mean(values)) for values in of_patient.values()]
    if len(means) < FEWEST_FOR_P or not any(means):
        return None
    return float(stats.wilcoxon(means).pvalue)


def _checked(row):
    """A row of another metrics.json; raises ValueError where its figures are no figures."""
    if not isinstance(row["case_id"], str) or row["use"] not in case_results.USES:
        raise ValueError(f"a row is named {row['case_id']!r} and its use is {row['use']!r}")
    for structure, figures in (row["metrics"] or {}).items():
        for metric, figure in figures.items():
            if not isinstance(figure, (int, float, type(None))):
                raise ValueError(f"{row['case_id']}: {structure} {metric} is {figure!r}")
    return row
