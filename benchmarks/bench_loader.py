"""Compares our training input with MONAI's: the same volumes, two cores each.

Usage:
  python benchmarks/bench_loader.py
  python benchmarks/bench_loader.py --patch_sizes=128 --cases=16 --rounds=5
  python benchmarks/bench_loader.py --data_dir=/scratch/bench   # keeps the volumes for later runs

Records of 144x144x144x4 float16 images and masks of four classes are written once, and the same
arrays as NumPy files for MONAI. Both sides make batches of two: a random patch of all four
modalities, random flips of each axis, scale and shift of the intensities, float32, and a one-hot
float32 target. For our side, the work of the device (`Targets.truth`, a cast) is included. MONAI
runs in a DataLoader with two worker processes and crops before it casts, from files that are read
whole or memory-mapped. The sides take turns; every figure is the median over the rounds after a
warm-up round.

Before, the costs of one patch are measured, without MONAI and without the work of the device, and
projected to the cores of GPU servers (`loader_costs`). What --brain_channel adds is printed too.

Then child processes read one epoch over 16 and over 200 small records, with the same number of
patches, and report their peak memory. Prints tables; the last line is one JSON object: volumes per
second at the first patch size, the worst ratio to the fastest peer over all sizes, and the
projection of each level of --augment at the first size. The exit code is 1 if memory grows with the
number of records. MONAI comes with the extra `peers`; without it, only the projection is printed,
and the exit code is 2.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import loader_costs
import numpy as np

from brats_tfrecord import files, spec
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.cohort.nifti import RawCase
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import example, manifest, shards, tfrecord

EXTENT, SMALL_EXTENT = 144, 64
# The costs of strong and full differ between patches, so that many are measured.
PASSES, THIN_PASSES = {"strong": 12, "full": 12, "light": 6}, 100
THIN_SHAPE = (EXTENT, loader_costs.THIN, loader_costs.THIN)
BATCH, WORKERS = 2, 2
SMALL_COUNTS = (16, 200)
MOST_GROWTH = 1.1
KEYS = ["image", "label"]


def main():
    """Measures speed, then memory; returns the exit code."""
    options = parse_arguments()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.memory_of:
        return print_memory(Path(options.memory_of), options.patches_per_case)
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:WORKERS])
    with folder_for(options.data_dir) as root:
        big = make_records(root / f"{options.cases}x{EXTENT}", options.cases, (EXTENT,) * 3)
        thin = make_records(root / f"{options.cases}xthin", options.cases, THIN_SHAPE)
        projections = [project(big, thin, size) for size in options.patch_sizes]
        try:
            import monai  # noqa: F401 - only to check that it is installed
        except ImportError:
            print(
                "bench_loader.py compares with MONAI, which is not installed: pip install "
                "'brats-tfrecord[peers]'",
                file=sys.stderr,
            )
            return 2
        make_numpy_files(big)
        # Small patches are fast, so more of them are timed.
        rows = [
            measure(big, size, options.rounds, options.volumes * max(1, 128 // size) ** 2)
            for size in options.patch_sizes
        ]
        flat = measure_memory(root)
    print(
        json.dumps(
            {
                "name": "loader",
                "unit": "volumes per second",
                "ours": rows[0].pop("ours"),
                "peers": {name: value for name, value in rows[0].items() if name != "ratio"},
                "ratio": min(row["ratio"] for row in rows),
                "projection": projections[0],
            }
        )
    )
    return 0 if flat else 1


def parse_arguments():
    """Parses the command line; exits with code 2 on a bad value."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="folder to keep the volumes in; default: temporary")
    parser.add_argument("--cases", type=int, default=8, help="number of volumes, 32 MB each")
    parser.add_argument(
        "--patch_sizes",
        default=[128, 64],
        help="comma-separated edges",
        type=lambda text: [int(part) for part in text.split(",")],
    )
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds")
    parser.add_argument(
        "--volumes",
        type=int,
        default=48,
        help="patches of edge 128 per round and side; four times as many of edge 64",
    )
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)  # of a child process
    parser.add_argument("--patches_per_case", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.cases, options.rounds, options.volumes, *options.patch_sizes) < 1:
        parser.error("--cases, --rounds, --volumes and --patch_sizes: expected 1 or more")
    return options


@contextlib.contextmanager
def folder_for(data_dir):
    """Context with the path of the folder to work in; a temporary one is removed at the end."""
    if data_dir:
        Path(data_dir).mkdir(parents=True, exist_ok=True)
        yield Path(data_dir)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)


def make_records(root, cases, shape):
    """Writes a dataset of random volumes with all labels, in one fold, unless it exists."""
    if (root / manifest.FILE_NAME).exists():
        return manifest.load(root)
    root.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(bias_correction="none", crop="fixed", crop_origin=(0, 0, 0), crop_shape=shape)
    scheme = spec.LABEL_SCHEMES["brats2023"]
    rng = np.random.default_rng(0)
    raw = RawCase(
        "",
        "",
        None,
        scheme.name,
        spec.MODALITIES,
        rng.normal(100, 30, (*shape, 4)).astype(np.float32),
        rng.integers(0, 4, shape).astype(np.int16),
        Geometry(shape, np.eye(4)),
    )
    done = recipe.apply(raw)
    plans = shards.plan_shards({f"case{n:04d}": 0 for n in range(cases)}, 4, seed=0)
    for plan in plans:
        write_shard(root, plan, raw, done, recipe)
    manifest.write(root, plans, manifest.Head(recipe, "", {}, scheme, 1, 0, {}))
    return manifest.load(root)


def write_shard(root, plan, raw, done, recipe):
    """One shard and its sidecar; every case holds the same voxels under its own name."""
    rows, path = [], root / plan.name
    with open(path, "wb") as stream:
        for case_id in plan.case_ids:
            named = dataclasses.replace(raw, case_id=case_id, patient_id=case_id)
            payload = example.encode(named, done, recipe)
            voxels = example.voxel_offsets(payload)
            rows.append(
                manifest.CaseRow(
                    case_id=case_id,
                    patient_id=case_id,
                    grade=None,
                    labelled=True,
                    fold=plan.fold,
                    shard=plan.name,
                    record_offset=stream.tell() + tfrecord.HEADER_BYTES,
                    record_bytes=len(payload),
                    image_offset=voxels["image"],
                    mask_offset=voxels["mask"],
                    inputs={},
                    voxels={},
                    key="",
                    brain_voxels=done.brain_voxels,
                    brain_voxels_lost=0,
                    tumour_voxels_lost=0,
                    class_voxels=done.class_voxels,
                    warnings=(),
                )
            )
            stream.writelines(tfrecord.frame(payload))
    shard = manifest.Shard(plan.name, plan.fold, len(rows), path.stat().st_size, files.sha256(path))
    files.write_json(root / plan.sidecar, manifest.sidecar(shard, recipe, rows, []))


def make_numpy_files(dataset):
    """Writes the same arrays for MONAI, channels first: image float16, classes uint8."""
    for path in dataset.shard_paths((0,)):
        for record in tfrecord.read_records(path):
            case = example.decode(record, dataset.recipe.image_dtype)
            image = numpy_file(dataset, case.case_id, "image")
            if not image.exists():
                np.save(image, np.ascontiguousarray(np.moveaxis(case.image, -1, 0)))
                np.save(numpy_file(dataset, case.case_id, "label"), case.classes[None])


def numpy_file(dataset, case_id, kind):
    """Returns the path of a case's array for MONAI."""
    return dataset.root / f"{case_id}-{kind}.npy"


def project(dataset, thin, size):
    """Prints the costs of a patch; returns the projected patches a second of each level."""
    from brats_tfrecord.training.data import input_pipeline

    rates = {}
    for level in PASSES:
        costs = costs_of_patch(dataset, thin, size, level)
        print(loader_costs.describe(costs, size, level, input_pipeline.MOST_READERS), flush=True)
        rates[level] = {
            f"{cores} cores": costs.rate(cores, input_pipeline.MOST_READERS)
            for cores in loader_costs.CORES
        }
    plain = costs_of_patch(dataset, thin, size, "light")
    marked = costs_of_patch(dataset, thin, size, "light", brain_channel=True)
    print(loader_costs.describe_brain_channel(plain, marked), flush=True)
    return rates


def costs_of_patch(dataset, thin, size, level, brain_channel=False):
    """Measures what a patch costs with a level of --augment."""
    passes = PASSES[level]
    return loader_costs.measure(
        train_batches(dataset, size, passes, level, brain_channel),
        passes * len(dataset.case_ids((0,))),
        train_batches(thin, size, THIN_PASSES, level, brain_channel),
        THIN_PASSES * len(thin.case_ids((0,))),
        EXTENT,
        size,
    )


def measure(dataset, size, rounds, volumes):
    """Measures one patch size; returns volumes per second of every side, and the `ratio`."""
    passes = -(-volumes // len(dataset.case_ids((0,))))
    sides = {
        "ours": our_side(dataset, size, passes),
        "MONAI": monai_side(dataset, size, passes, mapped=False),
        "MONAI, files mapped": monai_side(dataset, size, passes, mapped=True),
    }
    rates = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            began = time.perf_counter()
            count = run()
            if number:  # the first round is the warm-up
                rates[name].append(count / (time.perf_counter() - began))
    row = {name: statistics.median(values) for name, values in rates.items()}
    fastest = max(value for name, value in row.items() if name != "ours")
    print(
        f"patches of {size}x{size}x{size}, volumes/s: "
        + ", ".join(f"{name} {value:.1f}" for name, value in row.items())
        + f"; ratio {row['ours'] / fastest:.1f}",
        flush=True,
    )
    return {**row, "ratio": row["ours"] / fastest}


def our_side(dataset, size, passes):
    """Makes a function that reads all batches of an epoch and returns the number of volumes."""
    import tensorflow as tf

    from brats_tfrecord import targets

    batches = train_batches(dataset, size, passes, "light")
    truth_of = targets.make_targets("classes", dataset.label_scheme.classes).truth
    on_device = tf.function(
        lambda batch: (tf.cast(batch["image"], tf.float32), truth_of(batch["mask"]))
    )

    def run():
        count = 0
        for batch in batches:
            _, truth = on_device(batch)
            assert truth.shape == (BATCH, size, size, size, 4)
            count += BATCH
        return count

    return run


def train_batches(dataset, size, passes, level, brain_channel=False):
    """Makes our batches: `passes` patches of every volume, augmented by a level of --augment."""
    from brats_tfrecord.training.data import augment, input_pipeline

    return input_pipeline.make_train_dataset(
        dataset,
        (0,),
        modalities=spec.MODALITIES,
        brain_channel=brain_channel,
        patches=input_pipeline.Patches(size, passes, augmentation=augment.LEVELS[level]),
        batch_size=BATCH,
    )


def monai_side(dataset, size, passes, *, mapped):
    """Makes the function of `our_side` with MONAI's transforms in a DataLoader."""
    import torch
    from monai import data, transforms

    chain = transforms.Compose(
        [
            transforms.Lambdad(
                KEYS, functools.partial(load_tensor, mapped=mapped), track_meta=False
            ),
            transforms.RandSpatialCropd(KEYS, (size,) * 3, random_size=False),
            transforms.EnsureTyped("image", dtype=torch.float32),
            *(transforms.RandFlipd(KEYS, prob=0.5, spatial_axis=axis) for axis in range(3)),
            transforms.RandScaleIntensityd("image", factors=0.1, prob=1, channel_wise=True),
            transforms.RandShiftIntensityd("image", offsets=0.1, prob=1, channel_wise=True),
            transforms.AsDiscreted(
                "label", to_onehot=dataset.label_scheme.classes, dtype=torch.float32
            ),
        ]
    )
    rows = [
        {kind: str(numpy_file(dataset, case_id, kind)) for kind in KEYS}
        for case_id in dataset.case_ids((0,))
    ] * passes
    loader = data.DataLoader(
        data.Dataset(rows, chain),
        batch_size=BATCH,
        shuffle=True,
        num_workers=WORKERS,
        persistent_workers=True,
        drop_last=True,
        multiprocessing_context="spawn",  # TensorFlow's threads do not survive a fork
    )

    def run():
        count = 0
        for batch in loader:
            assert batch["label"].shape == (BATCH, 4, size, size, size)
            assert batch["image"].dtype == torch.float32
            count += BATCH
        return count

    return run


def load_tensor(path, mapped):
    """Loads an array as a tensor; with `mapped`, bytes are read only when they are cropped."""
    import torch

    return torch.from_numpy(np.load(path, mmap_mode="c" if mapped else None))


def measure_memory(root):
    """Prints the peak memory over few and over many records; returns whether it is constant."""
    peaks = []
    for count in SMALL_COUNTS:
        dataset = make_records(root / f"{count}x{SMALL_EXTENT}", count, (SMALL_EXTENT,) * 3)
        passes = max(SMALL_COUNTS) // count
        child = subprocess.run(
            [
                sys.executable,
                __file__,
                f"--memory_of={dataset.root}",
                f"--patches_per_case={passes}",
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks.append(float(child.stdout))
        stored = sum(shard.bytes for shard in dataset.shards) / 2**20
        print(
            f"memory over {count} records ({stored:.0f} MB), {passes * count} whole crops: "
            f"{peaks[-1]:.0f} MB"
        )
    return peaks[-1] <= MOST_GROWTH * peaks[0]


def print_memory(root, patches_per_case):
    """Runs the child process: reads one epoch and prints its peak memory in MB."""
    from brats_tfrecord.training.data import input_pipeline

    dataset = manifest.load(root)
    for _ in input_pipeline.make_train_dataset(
        dataset,
        (0,),
        modalities=spec.MODALITIES,
        patches=input_pipeline.Patches(per_case=patches_per_case, foreground_fraction=0.33),
        batch_size=BATCH,
    ):
        pass
    # getrusage would include the peak of the parent.
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(int(peak) / 1024)
    return 0


if __name__ == "__main__":
    sys.exit(main())
