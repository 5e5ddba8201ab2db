"""Our N4 against ANTsPy's and SimpleITK's, one thread each, interleaved volume by volume.

Usage:
  python benchmarks/bench_n4.py
  python benchmarks/bench_n4.py --input_dir=cohort   # the first case of a cohort of your own
  python benchmarks/bench_n4.py --modalities=flair --masks=positive

Every engine corrects the same voxels with the same settings: `positive` voxels, or the positive
voxels of ANTsPy's `get_mask`; masks are computed outside the timing. Our time is the median of
three runs, before, between and after the peers'. `variation` is the coefficient of variation of the
ratio of our corrected volume to the peer's inside the mask. More than 1e-4 against ANTsPy is a
different field and exits with 1. Prints a table; the last line is one JSON object, whose ratio is
the smallest ratio of the fastest peer's time to ours over volumes and masks. SimpleITK comes with
the extra `peers`.
"""

import argparse
import json
import os
import sys
import time

import numpy as np
from threadpoolctl import threadpool_limits

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.errors import InputError
from brats_tfrecord.phantom import generate
from brats_tfrecord.preprocess import n4

MASKS = {"positive": n4.positive_mask, "get_mask": n4.get_mask}
MOST_VARIATION = 1e-4


def main():
    """Measures the chosen modalities of one case under the chosen masks; returns the exit code."""
    options = parse_arguments()
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    peers = {"ANTsPy": correct_with_ants}
    try:
        import SimpleITK  # noqa: F401 - tests whether it is installed

        peers["SimpleITK"] = correct_with_simpleitk
    except ImportError:
        print("SimpleITK is not installed and is omitted: pip install -e '.[peers]'")
    volumes = read_volumes(options.input_dir, options.modalities)
    print(
        f"{'volume':8} {'mask':9} {'ours s':>7}"
        + "".join(f" {peer + ' s':>12} {'ratio':>6} {'variation':>10}" for peer in peers)
    )
    rows = []
    with threadpool_limits(1):
        for name, volume in volumes.items():
            for mask_name in options.masks:
                mask = MASKS[mask_name](volume) & n4.positive_mask(volume)
                rows.append((mask_name, *measure(volume, mask, peers)))
                print(row_text(name, *rows[-1]), flush=True)
    return summarise(rows)


def parse_arguments():
    """The command line; a bad value ends with exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--input_dir", help="cohort whose first case is corrected; a phantom if not given"
    )
    for flag, choices in (("--modalities", spec.MODALITIES), ("--masks", tuple(MASKS))):
        parser.add_argument(
            flag,
            default=choices,
            type=one_or_more(choices),
            help=f"comma-separated, of {', '.join(choices)}",
        )
    return parser.parse_args()


def one_or_more(choices):
    """A parser of comma-separated `choices`."""

    def parse(text):
        chosen = tuple(text.split(","))
        if not set(chosen) <= set(choices):
            raise argparse.ArgumentTypeError(
                f"{text!r}; expected a comma-separated choice of {', '.join(choices)}"
            )
        return chosen

    return parse


def read_volumes(input_dir, modalities):
    """Modality -> float32 [X, Y, Z], LPS order."""
    if input_dir is None:
        volumes = generate.make_case(seed=0, index=0).volumes
        return {
            name: volumes[..., spec.MODALITIES.index(name)].astype(np.float32)
            for name in modalities
        }
    raw = nifti.read_case(layouts.find_cases(input_dir)[0], modalities, with_mask=False)
    return {
        name: np.ascontiguousarray(raw.volumes[..., channel])
        for channel, name in enumerate(modalities)
    }


def measure(volume, mask, peers):
    """One row of the table.

    Args:
        volume: float32 [X, Y, Z].
        mask: bool [X, Y, Z], positive voxels only.
        peers: name -> function of volume and mask that gives the corrected volume.

    Returns:
        (our median seconds, {peer: (seconds, coefficient of variation of ours / theirs)}).
    """
    runs, results = [timed(n4.correct_bias_field, volume, mask)], {}
    for peer, correct in peers.items():
        seconds, theirs = timed(correct, volume, mask)
        ratio = runs[0][1][mask].astype(np.float64) / theirs[mask]
        results[peer] = seconds, ratio.std() / ratio.mean()
        runs.append(timed(n4.correct_bias_field, volume, mask))
    while len(runs) < 3:
        runs.append(timed(n4.correct_bias_field, volume, mask))
    return float(np.median([seconds for seconds, _ in runs])), results


def timed(correct, volume, mask):
    """(seconds, corrected volume)."""
    began = time.perf_counter()
    corrected = correct(volume, mask)
    return time.perf_counter() - began, corrected


def correct_with_ants(volume, mask):
    """ANTsPy, as the engine `ants` of the recipe calls it."""
    return n4.correct_bias_field(volume, mask, engine="ants")


def correct_with_simpleitk(volume, mask):
    """SimpleITK's filter on the shrunken volume, its field evaluated at full resolution."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    # SimpleITK reads arrays as [z, y, x].
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.T))
    inside = sitk.GetImageFromArray(np.ascontiguousarray(mask.T).astype(np.uint8))
    n4_filter = sitk.N4BiasFieldCorrectionImageFilter()
    n4_filter.SetMaximumNumberOfIterations(list(n4.LEVEL_ITERATIONS))
    n4_filter.SetConvergenceThreshold(n4.TOLERANCE)
    n4_filter.Execute(*(sitk.Shrink(whole, [n4.SHRINK_FACTOR] * 3) for whole in (image, inside)))
    field = sitk.Exp(n4_filter.GetLogBiasFieldAsImage(image))
    return np.where(mask, volume / sitk.GetArrayFromImage(field).T, volume)


def row_text(name, mask_name, ours, results):
    """Formats a row of the table."""
    return f"{name:8} {mask_name:9} {ours:7.2f}" + "".join(
        f" {seconds:12.2f} {seconds / ours:6.1f} {variation:10.1e}"
        for seconds, variation in results.values()
    )


def summarise(rows):
    """Prints medians and the JSON line; returns 1 if our field is not ANTs', else 0."""
    for chosen in dict.fromkeys(mask_name for mask_name, _, _ in rows):
        ratios = [
            results["ANTsPy"][0] / ours for mask_name, ours, results in rows if mask_name == chosen
        ]
        print(f"median ratio against ANTsPy, {chosen}: {np.median(ratios):.1f}")
    print(
        json.dumps(
            {
                "name": "n4",
                "unit": "s per volume",
                "ours": float(np.median([ours for _, ours, _ in rows])),
                "peers": {
                    peer: float(np.median([results[peer][0] for _, _, results in rows]))
                    for peer in rows[0][2]
                },
                "ratio": min(
                    min(seconds for seconds, _ in results.values()) / ours
                    for _, ours, results in rows
                ),
            }
        )
    )
    worst = max(results["ANTsPy"][1] for _, _, results in rows)
    if not worst <= MOST_VARIATION:
        print(
            f"field differs from ANTs: variation {worst:.1e}; expected at most {MOST_VARIATION}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
