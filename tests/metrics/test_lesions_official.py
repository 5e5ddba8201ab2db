"""The rule sets of BraTS 2023 against the output of the official code: 372 rows, all equal."""

import csv
from pathlib import Path

import numpy as np
import pytest

from brats_tfrecord import metrics

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent / "brats2023"
RULES = {"BraTS-GLI": "brats2023", "BraTS-MEN": "brats2023-men", "BraTS-MET": "brats2023-met"}
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def comparisons():
    """List of ((pair, task, region), official row as floats, our metrics)."""
    with np.load(FOLDER / "brats2023_pairs.npz") as file:
        truths, predictions = file["truth"], file["prediction"]
    with (FOLDER / "brats2023_official.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ours = {
        (pair, task): metrics.case_metrics(truths[pair], predictions[pair], (1, 1, 1), RULES[task])
        for pair, task in {(int(row["pair"]), row["task"]) for row in rows}
    }
    result = []
    for row in rows:
        pair, task, region = int(row.pop("pair")), row.pop("task"), row.pop("Labels")
        official = {column: float(value) for column, value in row.items()}
        result.append(((pair, task, region), official, ours[pair, task][region]))
    return result


def differing(comparisons, ours, official):
    """(key, our value, official value) of the rows that differ; the functions take one side."""
    return [
        (key, ours(our_row), official(official_row))
        for key, official_row, our_row in comparisons
        if abs(ours(our_row) - official(official_row)) > TOLERANCE
    ]


def test_all_rows_are_compared(comparisons):
    assert len(comparisons) == 372
    assert {task for (_, task, _), _, _ in comparisons} == RULES.keys()


@pytest.mark.parametrize(
    "metric, column",
    [
        ("hd95", "Legacy_HD95"),
        ("dice", "Legacy_Dice"),
        ("lesion_dice", "LesionWise_Score_Dice"),
        ("lesion_hd95", "LesionWise_Score_HD95"),
        ("missed_lesions", "Num_FN"),
        ("false_lesions", "Num_FP"),
        ("sensitivity", "Sensitivity"),
        ("specificity", "Specificity"),
    ],
)
def test_figures_equal_those_of_the_official_code(comparisons, metric, column):
    rows = differing(comparisons, lambda ours: ours[metric], lambda official: official[column])
    assert rows == []
    assert len({official[column] for _, official, _ in comparisons}) > 2
    print(f"\n{metric}: {len(comparisons)} rows equal to {TOLERANCE} with {column}")


def test_matched_lesions_equal_those_of_the_official_code(comparisons):
    rows = differing(
        comparisons,
        lambda ours: ours["lesions"] - ours["missed_lesions"],
        lambda official: official["Num_TP"],
    )
    assert rows == []
    assert max(official["Num_TP"] for _, official, _ in comparisons) > 1
    print(f"\nmatched lesions: {len(comparisons)} rows equal with Num_TP")


def test_the_challenges_differ_on_these_pairs(comparisons):
    """Without this, rules that ignore the challenge would pass."""
    figures = {key: ours for key, _, ours in comparisons}
    for first, second in (("BraTS-GLI", "BraTS-MEN"), ("BraTS-MEN", "BraTS-MET")):
        common = [key for key in figures if key[1] == first and (key[0], second, key[2]) in figures]
        assert any(
            figures[key]["lesions"] != figures[key[0], second, key[2]]["lesions"] for key in common
        )
