"""Measures the seconds from the NIfTI files of a case to its written segmentation, on two cores.

Usage:
  python benchmarks/bench_segment.py
  python benchmarks/bench_segment.py --cases_dir=cohort   # the first case of another cohort
  python benchmarks/bench_segment.py --rounds=5

The default U-Net (16 to 256 filters; FLAIR, T1ce and T2; four classes; random weights, which take
as long as trained ones) segments a case of 240x240x155 voxels, including N4: the crop window,
extended to the whole brain, in one piece and in windows of 128 voxels, with post-processing. The
peer runs the same recipe on the same voxels with nibabel, ANTsPy's N4 with its own mask, and the
same network in PyTorch with MONAI's sliding_window_inference. PyTorch uses the faster of its memory
layouts (channels last), ANTsPy both cores. unet_nn (32 to 320 filters) has no peer here: its rows
show what its windows cost against one piece, which it was not trained for.

Every side is a process of its own that loads its model before the clock starts; the sides take
turns, one case each. `first` is the first case, the stages are medians of the following cases, and
`MB` is the peak memory. Prints a table; the last line is one JSON object: our seconds in one piece,
and the smaller of the two ratios of peer to ours, in one piece and in windows. Exits with 1 if one
piece takes more than 8 seconds, and with 2 if the extra `peers` is not installed.
"""

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_step import CHANNELS, CLASSES, CORES, make_torch_unet, peak_megabytes

MAX_SECONDS = 8
MODALITIES = ("flair", "t1ce", "t2")
WINDOW, OVERLAP = 128, 0.5
STAGES = ("reading", "bias correction", "network", "post-processing", "writing")
SIDES = {
    "ours, one piece": ("ours", "unet_whole"),
    "ours, windows": ("ours", "unet_windows"),
    "MONAI + ANTsPy, one piece": ("peer", "whole"),
    "MONAI + ANTsPy, windows": ("peer", "windows"),
    "ours, unet_nn, one piece": ("ours", "unet_nn_whole"),
    "ours, unet_nn, windows": ("ours", "unet_nn_windows"),
}
"""Name -> arguments of its process: kind, and our model or how the peer predicts."""

PAIRS = (
    ("ours, one piece", "MONAI + ANTsPy, one piece"),
    ("ours, windows", "MONAI + ANTsPy, windows"),
)


def main():
    """Runs the benchmark; returns the exit code."""
    options = parse_arguments()
    if options.child:
        return serve(*options.child)
    missing = [name for name in ("torch", "monai") if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"bench_segment.py: {' and '.join(missing)} not installed; run "
            "pip install 'brats-tfrecord[peers]'",
            file=sys.stderr,
        )
        return 2
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as root:
        cases_dir = options.cases_dir or make_cohort(root)
        save_models(root)
        rows = measure(root, cases_dir, options.rounds)
    return summarise(rows)


def parse_arguments():
    """Parses the command line; exits with 2 on an invalid value."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cases_dir", help="cohort whose first case is segmented; default: a phantom"
    )
    parser.add_argument(
        "--rounds", type=int, default=2, help="measured cases of each side, after the first one"
    )
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds={options.rounds}: expected 1 or more")
    if options.cases_dir and not options.child:
        require_cohort(parser, options.cases_dir)
    return options


def require_cohort(parser, cases_dir):
    """Exits with 2 if the folder contains no case."""
    from brats_tfrecord.cohort import layouts
    from brats_tfrecord.errors import InputError

    try:
        layouts.find_cases(cases_dir)
    except InputError as error:
        parser.error(str(error))


def make_cohort(root):
    """Writes a cohort of one full-size phantom; returns its folder."""
    from brats_tfrecord.phantom import generate

    generate.write_cohort(Path(root) / "cohort", 1, seed=0)
    return Path(root) / "cohort"


def save_models(root):
    """Exports each network for whole images and for windows, in a process of its own."""
    subprocess.run([sys.executable, __file__, "--child", "models", root], check=True)


def measure(root, cases_dir, rounds):
    """Prints a row for each side; returns name -> median seconds per case."""
    sides, results = {}, {}
    try:
        for name, arguments in SIDES.items():
            sides[name] = Side(*arguments, root, cases_dir, f"{root}/{len(sides)}.nii.gz")
            results[name] = []
        for _ in range(1 + rounds):
            for name, side in sides.items():
                results[name].append(side.ask("case"))
        memory = {name: side.ask("memory") for name, side in sides.items()}
    finally:
        for side in sides.values():
            side.close()
    print(
        f"{'':26} {'s a case':>8} "
        + " ".join(f"{stage:>15}" for stage in STAGES)
        + f" {'first':>7} {'MB':>6}"
    )
    totals = {}
    for name, (first, *others) in results.items():
        totals[name] = statistics.median(sum(stages.values()) for stages in others)
        cells = " ".join(
            f"{statistics.median(stages.get(stage, 0) for stages in others):15.2f}"
            for stage in STAGES
        )
        print(
            f"{name:26} {totals[name]:8.2f} {cells} {sum(first.values()):7.2f} {memory[name]:6.0f}",
            flush=True,
        )
    return totals


class Side:
    """A process that segments the case on request."""

    def __init__(self, *arguments):
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--child", *map(str, arguments)],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.ask("ready")

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def ask(self, question):
        """Sends a request, "ready", "case" or "memory"; returns the JSON value of the reply."""
        print(question, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def serve(kind, *arguments):
    """Runs a child process: exports the models, or answers every line of its input."""
    if kind == "models":
        return write_models(*arguments)
    segment = (make_ours if kind == "ours" else make_peer)(*arguments)
    answers = {"ready": lambda: 0, "case": segment, "memory": peak_megabytes}
    for question in sys.stdin:
        print(json.dumps(answers[question.strip()]()), flush=True)
    return 0


def write_models(root):
    """Exports the models of `SIDES` to `root`."""
    from brats_tfrecord.pieces import WHOLE_VOXELS
    from brats_tfrecord.training.network.network_options import NETWORKS

    voxels = {"whole": WHOLE_VOXELS, "windows": 0}
    for name, (extents, whole_voxels) in itertools.product(NETWORKS, voxels.items()):
        write_model(Path(root) / f"{name}_{extents}", name, whole_voxels)
    return 0


def write_model(path, name, whole_voxels, filters=None):
    """Exports one network with random weights; `filters` are its defaults unless given."""
    from brats_tfrecord.pieces import Piece
    from brats_tfrecord.preprocess.recipe import Recipe
    from brats_tfrecord.serving.card import ModelCard
    from brats_tfrecord.serving.export import export_saved_model
    from brats_tfrecord.serving.postprocess import PostProcessing
    from brats_tfrecord.training.network.network_options import NETWORKS, NetworkOptions
    from brats_tfrecord.training.network.networks import build_network

    filters = filters or NETWORKS[name].filters
    options = NetworkOptions(
        name, CHANNELS, CLASSES, "softmax", filters, NETWORKS[name].rates(filters)
    )
    network = build_network(options, seed=0)
    card = ModelCard(
        recipe=Recipe(),
        modalities=MODALITIES,
        label_scheme="brats2020",
        targets="classes",
        piece=Piece((WINDOW, WINDOW, WINDOW), network.stride, whole_voxels),
        dataset_fingerprint="0" * 64,
        train_case_ids=(),
        select_case_ids=(),
        training={},
        post_processing=PostProcessing(200, (50.0, 50.0, 50.0)),
    )
    export_saved_model(network.model, card, path)


def make_ours(model, root, cases_dir, target):
    """Returns a function that segments the first case and returns stage -> seconds."""
    from brats_tfrecord.cohort import layouts
    from brats_tfrecord.serving.predict import Segmenter

    segmenter = Segmenter(Path(root) / model)
    case = layouts.find_cases(cases_dir)[0]

    def run():
        segmentation = segmenter.segment(case)
        started = time.perf_counter()
        segmentation.write(target)
        return {**segmentation.seconds, "writing": time.perf_counter() - started}

    return run


def make_peer(pieces, _, cases_dir, target):
    """Returns a function like that of `make_ours`, with MONAI, PyTorch and ANTsPy."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(CORES)
    import ants
    import nibabel
    import numpy as np
    import torch
    from monai.inferers import sliding_window_inference

    from brats_tfrecord.cohort import layouts
    from brats_tfrecord.preprocess import crop

    torch.set_num_threads(CORES)
    layout = torch.channels_last_3d
    model = make_torch_unet().to(memory_format=layout).eval()
    case = layouts.find_cases(cases_dir)[0]
    low, extents = covering_box(case)
    whole = {"roi_size": extents, "overlap": 0}
    windows = {"roi_size": (WINDOW,) * 3, "overlap": OVERLAP, "mode": "gaussian"}

    def read():
        images = [nibabel.load(case.image(name)) for name in MODALITIES]
        return [image.get_fdata(dtype=np.float32) for image in images], images[0].affine

    def correct(volumes):
        images = map(ants.from_numpy, volumes)
        return [
            ants.n4_bias_field_correction(image, mask=ants.get_mask(image)).numpy()
            for image in images
        ]

    def predict(volumes):
        cuts = [crop.crop(volume, low, extents) for volume in volumes]
        image = np.stack([(cut - cut.mean()) / cut.std() for cut in cuts])
        with torch.inference_mode():
            logits = sliding_window_inference(
                torch.from_numpy(image)[None].contiguous(memory_format=layout),
                sw_batch_size=1,
                predictor=model,
                **(whole if pieces == "whole" else windows),
            )
            classes = torch.softmax(logits, 1).argmax(1)[0].numpy()
        labels = np.array([0, 1, 2, 4], np.uint8)[classes]
        return crop.uncrop(labels, low, volumes[0].shape)

    def run():
        times = [time.perf_counter()]
        volumes, affine = read()
        times.append(time.perf_counter())
        volumes = correct(volumes)
        times.append(time.perf_counter())
        labels = predict(volumes)
        times.append(time.perf_counter())
        nibabel.save(nibabel.Nifti1Image(labels, affine), target)
        times.append(time.perf_counter())
        stages = ("reading", "bias correction", "network", "writing")
        return dict(zip(stages, (end - start for start, end in itertools.pairwise(times))))

    return run


def covering_box(case):
    """Returns (first voxel, extents) of the box that the default recipe gives the U-Net."""
    from brats_tfrecord.cohort import nifti
    from brats_tfrecord.preprocess.recipe import Recipe

    raw, recipe = nifti.read_case(case, MODALITIES, with_mask=False), Recipe()
    origin = recipe.window(raw.volumes, MODALITIES)
    return recipe.covering_box(raw.volumes, MODALITIES, origin, alignment=16)


def summarise(totals):
    """Prints the JSON line; returns the exit code."""
    ours = totals[PAIRS[0][0]]
    print(
        json.dumps(
            {
                "name": "segment",
                "unit": "s",
                "ours": ours,
                "peers": {peer: totals[peer] for _, peer in PAIRS},
                "ratio": min(totals[peer] / totals[own] for own, peer in PAIRS),
            }
        )
    )
    if ours > MAX_SECONDS:
        print(f"{ours:.1f} s per case; expected at most {MAX_SECONDS}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
