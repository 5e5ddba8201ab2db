"""Our N4 against ANTsPy's, one thread each, interleaved volume by volume.

Usage:
  python benchmarks/bench_n4.py
  python benchmarks/bench_n4.py --input_dir=cohort   # the first case of a cohort of your own

Prints a table; the last line is one JSON object whose ratio is the smallest ANTsPy / ours over the
volumes. Both correct the same voxels at the same settings; `variation` is the coefficient of
variation of the two corrected volumes' ratio inside the mask.
"""

import argparse
import json
import time

import numpy as np
from threadpoolctl import threadpool_limits

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti, phantom
from brats_tfrecord.preprocess import n4


def main():
    """Measures the four modalities of one case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input_dir", help="cohort whose first case is corrected; a phantom if "
                                            "not given")
    volumes = read_volumes(parser.parse_args().input_dir)
    print(f"{'volume':8} {'ours s':>8} {'ANTsPy s':>9} {'ratio':>7} {'variation':>10}")
    rows = []
    with threadpool_limits(1):
        for name, volume in volumes.items():
            rows.append(measure(volume))
            ours, ants, variation = rows[-1]
            print(f"{name:8} {ours:8.2f} {ants:9.2f} {ants / ours:7.1f} {variation:10.1e}",
                  flush=True)
    ours, ants, _ = np.median(rows, axis=0)
    print(json.dumps({"name": "n4", "unit": "s per volume", "ours": ours,
                      "peers": {"ANTsPy": ants},
                      "ratio": min(theirs / mine for mine, theirs, _ in rows)}))


def read_volumes(input_dir):
    """Modality -> float32 [X, Y, Z]."""
    if input_dir is None:
        volumes = phantom.make_case(seed=0, index=0).volumes
        return {name: volumes[..., channel].astype(np.float32)
                for channel, name in enumerate(spec.MODALITIES)}
    case = layouts.find_cases(input_dir)[0]
    return {name: nifti.read_volume(case.image(name))[0] for name in spec.MODALITIES}


def measure(volume):
    """(our seconds, the median of three; ANTs's seconds; variation of the ratio)."""
    mask = n4.positive_mask(volume)
    runs = sorted((timed("n4", volume, mask) for _ in range(3)), key=lambda run: run[0])
    ours, mine = runs[1]
    ants, theirs = timed("ants", volume, mask)
    ratio = mine[mask].astype(np.float64) / theirs[mask]
    return ours, ants, ratio.std() / ratio.mean()


def timed(engine, volume, mask):
    """(seconds, corrected volume)."""
    began = time.perf_counter()
    corrected = n4.correct_bias_field(volume, mask, engine=engine)
    return time.perf_counter() - began, corrected


if __name__ == "__main__":
    main()
