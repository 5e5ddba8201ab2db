"""Time of our metrics of a case against MONAI, surface-distance, MedPy and panoptica.

Usage:
  python benchmarks/bench_metrics.py
  python benchmarks/bench_metrics.py --cases=1 --rounds=3

The truths are the tumours of phantoms of 240 x 240 x 155 voxels of 1 mm. The predictions are the
same tumours deformed by a smooth random field, with a Dice of about 0.85 and an HD95 of about 3 mm.
The third case has no enhancing tumour. The peers compute Dice and HD95 of WT, TC and ET from masks
of the regions, which are prepared outside the timing. `ours, regions` computes all metrics of the
BraTS 2020 rules from label maps (also HD100, ASSD, surface Dice at 1 and 2 mm, sensitivity,
specificity and volume error, and the two classes that are not a region); `ours, lesions` computes
those of BraTS 2023, with lesion-wise metrics and distances weighted by area.
All run in turns on two cores; times are medians. `HD95` is the largest HD95 of a peer minus ours in
mm; the definitions differ as described in tests/metrics/test_oracles.py.

The last rows are for a prediction of random noise in the whole volume, ours only. Prints a table;
the last line is one JSON object with our mean time for regions and the smallest ratio of the
fastest peer to ours over the cases. Without the extra `peers`: one line, exit 2.
"""

import argparse
import json
import os
import statistics
import sys
import time
import warnings

import numpy as np
from scipy import ndimage

from brats_tfrecord import spec
from brats_tfrecord.metrics import case_metrics
from brats_tfrecord.phantom import generate

CORES = 2
SPACING_MM = (1.0, 1.0, 1.0)


def main():
    """Measures every case; returns the exit code."""
    options = parse_arguments()
    os.environ.setdefault(
        "TF_CPP_MIN_LOG_LEVEL", "3"
    )  # MONAI imports TensorFlow if it is installed
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    try:
        peers = load_peers()
    except ImportError as error:
        print(
            f"bench_metrics.py needs {error.name}, which is not installed: pip install "
            "'brats-tfrecord[peers]'",
            file=sys.stderr,
        )
        return 2
    print(f"{'case':>4} {'tumour mL':>9} {'side':18} {'s':>8} {'ratio':>6} {'HD95':>6}")
    rows = [measure(number, peers, options.rounds) for number in range(options.cases)]
    report_noise()
    ours = [row.pop("ours, regions") for row in rows]
    means = {peer: statistics.fmean(row[peer] for row in rows) for peer in peers}
    print(
        json.dumps(
            {
                "name": "metrics",
                "unit": "s per case",
                "ours": statistics.fmean(ours),
                "peers": means,
                "ratio": min(
                    min(row[peer] for peer in peers) / own for row, own in zip(rows, ours)
                ),
            }
        )
    )
    return 0


def parse_arguments():
    """The command line; a bad value ends with exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=4, help="phantoms compared")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    options = parser.parse_args()
    if options.cases < 1 or options.rounds < 1:
        parser.error("--cases and --rounds: expected 1 or more")
    return options


def load_peers():
    """Name -> function of bool [3, X, Y, Z] truth and prediction that gives [(Dice, HD95)]."""
    import surface_distance
    import torch
    from medpy.metric import binary
    from monai.metrics import compute_dice, compute_hausdorff_distance
    from panoptica import Metric

    torch.set_num_threads(CORES)

    def with_monai(truth, prediction):
        pair = [torch.from_numpy(masks[None]) for masks in (prediction, truth)]
        dice = compute_dice(*pair, include_background=True)
        hd95 = compute_hausdorff_distance(
            *pair, include_background=True, percentile=95, spacing=SPACING_MM
        )
        return list(zip(dice[0].tolist(), hd95[0].tolist()))

    def with_surface_distance(truth, prediction):
        distances = surface_distance.compute_surface_distances(truth, prediction, SPACING_MM)
        return (
            surface_distance.compute_dice_coefficient(truth, prediction),
            surface_distance.compute_robust_hausdorff(distances, 95),
        )

    def with_medpy(truth, prediction):
        return (binary.dc(prediction, truth), binary.hd95(prediction, truth, SPACING_MM))

    def with_panoptica(truth, prediction):
        return Metric.DSC(truth, prediction), Metric.HD95(truth, prediction)

    return {
        "MONAI": with_monai,
        "surface-distance": each_region(with_surface_distance),
        "MedPy": each_region(with_medpy),
        "panoptica": each_region(with_panoptica),
    }


def each_region(measure_one):
    """Runs a peer of single masks on every region that neither side leaves empty."""

    def measure_all(truths, predictions):
        return [
            measure_one(*pair)
            for pair in zip(truths, predictions)
            if pair[0].any() and pair[1].any()
        ]

    return measure_all


def measure(number, peers, rounds):
    """Prints the rows of one case; returns each side's median seconds."""
    truth = canonical(generate.make_case(seed=0, index=number).mask)
    prediction = deformed(truth, np.random.default_rng(number))
    pair = [
        np.stack([np.isin(classes, region) for region in spec.REGIONS.values()])
        for classes in (truth, prediction)
    ]
    sides = {"ours, regions": lambda: case_metrics(truth, prediction, SPACING_MM)}
    sides |= {name: (lambda peer=peer: peer(*pair)) for name, peer in peers.items()}
    sides["ours, lesions"] = lambda: case_metrics(truth, prediction, SPACING_MM, "brats2023")
    results = {name: run() for name, run in sides.items()}  # also warms the caches
    seconds = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            seconds[name].append(timed(run))
    row = {name: statistics.median(times) for name, times in seconds.items()}
    own = largest(results["ours, regions"][region]["hd95"] for region in spec.REGIONS)
    for name, median in row.items():
        text = ""
        if name in peers:
            text = f"{largest(hd95 for _, hd95 in results[name]) - own:+6.2f}"
        print(
            f"{number + 1:4} {np.count_nonzero(truth) / 1000:9.1f} {name:18} {median:8.4f} "
            f"{median / row['ours, regions']:6.1f} {text}",
            flush=True,
        )
    return row


def largest(lengths_mm):
    """The largest number; MONAI has NaN and infinity where a mask is empty."""
    return max(length for length in lengths_mm if np.isfinite(length))


def report_noise():
    """Prints our time for a prediction of noise: half of all voxels, of any class."""
    truth = canonical(generate.make_case(seed=0, index=0).mask)
    rng = np.random.default_rng(0)
    noise = rng.integers(1, 4, truth.shape, np.uint8) * (rng.random(truth.shape) < 0.5)
    for rules, name in (("brats2020", "ours, regions"), ("brats2023", "ours, lesions")):
        duration = timed(lambda rules=rules: case_metrics(truth, noise, SPACING_MM, rules))
        print(f"{'noise':>14} {name:18} {duration:8.2f}", flush=True)


def canonical(mask):
    """Canonical classes uint8 of a phantom's mask, which is in BraTS 2020's values."""
    return np.searchsorted(spec.LABEL_SCHEMES["brats2020"].values, mask).astype(np.uint8)


def deformed(classes, rng, shift=2.0, smoothness=6.0):
    """Label map uint8 [X, Y, Z], displaced by `shift` voxels (standard deviation) along each axis.

    `smoothness` is the width in voxels of the Gaussian that the field of noise is filtered with.
    """
    margin = round(4 * shift)
    box = tuple(
        slice(max(0, int(at.min()) - margin), int(at.max()) + 1 + margin)
        for at in np.nonzero(classes)
    )
    part = classes[box]
    positions = list(np.indices(part.shape, np.float32))
    for position in positions:
        field = ndimage.gaussian_filter(rng.standard_normal(part.shape, np.float32), smoothness)
        position += shift / field.std() * field
    moved = np.zeros_like(classes)
    moved[box] = ndimage.map_coordinates(part, positions, order=0)
    return moved


def timed(run):
    """Seconds that `run` takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="monai|surface_distance|panoptica")
    sys.exit(main())
