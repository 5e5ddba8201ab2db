"""The rule set `brats2023` against the output of the official BraTS 2023 code for glioma.

Lesion counts, lesion-wise Dice and the whole-volume overlap metrics have the same definition and
are equal. HD95 is not: the official code takes the larger of the two directed 95th percentiles of
surface elements weighted by their area (DeepMind's surface-distance); here the distances between
the centres of surface voxels are pooled over both directions. The tests of HD95 therefore assert
that the differences are no larger than those measured, and print them (`pytest -s`).
"""

import csv
from pathlib import Path

import numpy as np
import pytest

from brats_tfrecord import metrics, spec
from brats_tfrecord.metrics import surface

FOLDER = Path(__file__).parent / "brats2023"
SPACING_MM = (1, 1, 1)


@pytest.fixture(scope="module")
def pairs():
    """Truths and predictions, uint8 [pair, X, Y, Z] canonical classes."""
    with np.load(FOLDER / "brats2023_pairs.npz") as file:
        return file["truth"], file["prediction"]


@pytest.fixture(scope="module")
def comparisons(pairs):
    """List of (pair, region, official metrics, our metrics) of the task BraTS-GLI."""
    with (FOLDER / "brats2023_official.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.pop("task") == "BraTS-GLI"]
    ours = {
        pair: metrics.case_metrics(pairs[0][pair], pairs[1][pair], SPACING_MM, "brats2023")
        for pair in {int(row["pair"]) for row in rows}
    }
    assert len(ours) == 38 and len(rows) == 38 * len(spec.REGIONS)
    result = []
    for row in rows:
        pair, region = int(row.pop("pair")), row.pop("Labels")
        result.append((pair, region, {k: float(v) for k, v in row.items()}, ours[pair][region]))
    return result


def test_lesion_counts_are_equal(comparisons):
    for pair, region, official, ours in comparisons:
        matched = ours["lesions"] - ours["missed_lesions"]
        counts = matched, ours["missed_lesions"], ours["false_lesions"]
        expected = official["Num_TP"], official["Num_FN"], official["Num_FP"]
        assert counts == expected, (pair, region)
    for name in ("Num_TP", "Num_FN", "Num_FP"):
        assert max(official[name] for _, _, official, _ in comparisons) > 1


@pytest.mark.parametrize(
    "metric, column",
    [
        ("lesion_dice", "LesionWise_Score_Dice"),
        ("dice", "Legacy_Dice"),
        ("sensitivity", "Sensitivity"),
        ("specificity", "Specificity"),
    ],
)
def test_overlap_metrics_are_equal(comparisons, metric, column):
    for pair, region, official, ours in comparisons:
        assert ours[metric] == pytest.approx(official[column], abs=1e-6), (pair, region)


def test_lesion_wise_hd95_differs_by_less_than_a_quarter_millimetre(comparisons):
    differences = {}
    for pair, region, official, ours in comparisons:
        difference = ours["lesion_hd95"] - official["LesionWise_Score_HD95"]
        if ours["lesions"] == ours["missed_lesions"]:  # only penalties, no distance is measured
            assert difference == 0, (pair, region)
        else:
            differences[pair, region] = difference
    report("lesion-wise HD95", differences)
    values = np.array(list(differences.values()))
    assert len(values) == 47 and np.count_nonzero(np.abs(values) < 1e-6) == 21
    assert values.min() > -0.0724 and values.max() < 0.2361
    assert abs(values.mean()) < 0.0568


def test_whole_hd95_differs_by_pooling_and_by_surface(comparisons, pairs):
    pooling, elements = {}, {}
    for pair, region, official, ours in comparisons:
        truth, prediction = (np.isin(maps[pair], spec.REGIONS[region]) for maps in pairs)
        if not (truth.any() and prediction.any()):
            assert ours["hd95"] == official["Legacy_HD95"], (pair, region)
            continue
        distances = surface.surface_distances(truth, prediction, SPACING_MM)
        directed = max(
            np.percentile(distances.truth_to_prediction, 95),
            np.percentile(distances.prediction_to_truth, 95),
        )
        pooling[pair, region] = ours["hd95"] - directed
        elements[pair, region] = directed - official["Legacy_HD95"]
    report("whole HD95, pooled instead of the larger direction", pooling)
    report("whole HD95, voxels instead of surface elements", elements)
    assert len(pooling) == 85
    # The pooled percentile is never above the larger of the two directed ones.
    assert min(pooling.values()) > -35.101 and max(pooling.values()) <= 0
    assert min(elements.values()) > -0.2955 and max(elements.values()) < 0.7640


def report(title, differences):
    """Prints the differences in mm, the largest first."""
    values = np.array(list(differences.values()))
    print(f"\n{title}: {len(values)} values, mean {values.mean():+.4f} mm")
    for (pair, region), value in sorted(differences.items(), key=lambda item: -abs(item[1])):
        print(f"  pair {pair:2} {region:2} {value:+9.4f}")
