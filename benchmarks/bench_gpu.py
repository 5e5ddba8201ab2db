"""Measures training and inference on the GPUs of this machine, in at most thirty minutes.

Usage:
  python benchmarks/bench_gpu.py
  python benchmarks/bench_gpu.py --minutes=10 --networks=unet_nn --precisions=mixed_bfloat16

Needs nothing but the installation with GPUs: pip install 'brats-tfrecord[gpu]'. Records of
144x144x144 voxels and one phantom case are written to a temporary folder. Measured are, for both
networks, float32 (which GPUs since Ampere compute as TF32), bfloat16 and float16, with and
without XLA:

* training on patches of 128x128x128 with the loader of a real run and light augmentation, batches
  of 1, 2 and 4 a GPU, on 1 GPU to all: images a second with real input and with one batch
  repeated, the share of the time spent waiting for input, and the peak memory of the first GPU;
* the network alone on such patches, batches of 1, 2 and 4, on one GPU;
* a whole case from NIfTI files to labels in native space, including bias correction.

Beside them stand the figures that NVIDIA publishes for its nnU-Net in TensorFlow 2 on an A100 of
80 GB, same patch and batch, a network like unet_nn. A setting that does not fit into the memory is
a row that says so, and what does not fit into `--minutes` is listed at the end. Every setting runs
in a process of its own. The last line is one JSON object with all rows; `ratio` is the worst ratio
of unet_nn's best speed at a batch to NVIDIA's, over all batches trained in 16 bits on one GPU.

Without a GPU the same code runs for about a minute with a tiny network on the CPU, split into two
devices, and the exit code is 2.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

NETWORKS = ("unet_nn", "unet")
PRECISIONS = ("mixed_bfloat16", "float32", "mixed_float16")
BITS_16 = ("mixed_bfloat16", "mixed_float16")
NVIDIA = "NVIDIA nnU-Net TF2, A100 80 GB"
PUBLISHED = {
    ("training", True, 1): {1: 27.0, 2: 29.3, 4: 31.9},
    ("training", False, 1): {1: 11.6, 2: 11.8, 4: 12.2},
    ("training", True, 8): {1: 187.0, 2: 219.0, 4: 244.0},
    ("network", True, 1): {1: 78.2, 2: 63.8, 4: 83.2},
    ("network", False, 1): {1: 38.9, 2: 40.1, 4: 41.7},
}
"""(task, whether in 16 bits, GPUs) -> batch a GPU -> images a second."""

WARM_UP, FEWEST_STEPS, MOST_STEPS = 4, 4, 200


@dataclass(frozen=True)
class Scale:
    """Sizes of the measurements: of a machine with GPUs, or of the trial without one.

    Attributes:
        patch, extent: edges of the patches and of the records, in voxels.
        cases: number of records.
        batches: batches a GPU.
        filters: channels of the networks' levels, or "auto".
        seconds: how long to measure each figure.
        case_shape: voxels of the phantom case.
    """

    patch: int = 128
    extent: int = 144
    cases: int = 8
    batches: tuple[int, ...] = (1, 2, 4)
    filters: str = "auto"
    seconds: float = 4.0
    case_shape: tuple[int, int, int] = (240, 240, 155)

    @property
    def filter_counts(self):
        """The channels of `filters`, or None for the networks' own."""
        return None if self.filters == "auto" else tuple(map(int, self.filters.split(",")))


TRIAL = Scale(16, 24, 4, (1, 2), "4,8", 0.5, (64, 60, 48))


@dataclass(frozen=True)
class Setting:
    """What one child process measures.

    Attributes:
        task: "training", "network" (inference alone) or "case" (from files to labels).
        network, precision, xla: as the flags of tools/train.py.
        gpus: number of GPUs; 0 is the CPU.
        devices: replicas, on GPUs or on the CPU.
    """

    task: str
    network: str
    precision: str = "float32"
    xla: bool = False
    gpus: int = 1
    devices: int = 1

    def title(self):
        """Names the setting in one line."""
        where = f"{self.gpus} GPU(s)" if self.gpus else f"CPU as {self.devices} device(s)"
        xla = " XLA" if self.xla else ""
        return f"{self.task:8} {self.network:7} {self.precision:14}{xla:4} {where}"


def main():
    """Runs the benchmark; returns the exit code."""
    options = parse_arguments()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.child:
        return serve(json.loads(options.child))
    deadline = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as root:
        machine = list(run_child({"task": "machine", "root": root}, deadline))[-1]
        gpus = machine.get("gpus", [])
        if "error" in machine:
            print(f"bench_gpu.py: {machine['error']}", file=sys.stderr)
        print(f"{len(gpus)} GPU(s): {', '.join(sorted(set(gpus))) or 'none'}", flush=True)
        scale = Scale() if gpus else TRIAL
        settings = plan(len(gpus), options.networks, options.precisions)
        rows, skipped = measure_all(settings, scale, root, deadline)
    summarise(rows, skipped, gpus)
    if not gpus:
        print(
            "bench_gpu.py: TensorFlow shows no GPU; tried the same code with tiny networks on the "
            "CPU. Not measured: training, inference, memory and NCCL on GPUs",
            file=sys.stderr,
        )
    return 0 if gpus else 2


def parse_arguments():
    """Parses the command line; exits with 2 on an invalid value."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30, help="longest time")
    for name, choices in (("networks", NETWORKS), ("precisions", PRECISIONS)):
        parser.add_argument(f"--{name}", default=",".join(choices), help="comma-separated")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # JSON of a process's task
    options = parser.parse_args()
    for name, choices in (("networks", NETWORKS), ("precisions", PRECISIONS)):
        values = tuple(getattr(options, name).split(","))
        if not set(values) <= set(choices):
            parser.error(f"--{name}={','.join(values)}: expected of {','.join(choices)}")
        setattr(options, name, values)
    return options


def plan(gpus, networks=NETWORKS, precisions=PRECISIONS):
    """Lists the settings in the order of their importance, for a number of GPUs."""
    if not gpus:
        trials = [
            Setting("training", "unet", gpus=0),
            Setting("training", "unet_nn", gpus=0, devices=2),  # CPUs emulate 16 bits slowly
            Setting("training", "unet", xla=True, gpus=0),
            Setting("network", "unet", gpus=0),
            Setting("case", "unet", gpus=0),
        ]
        return [setting for setting in trials if setting.network in networks]
    doubled = [2**k for k in range(1, gpus.bit_length()) if 2**k < gpus]
    counts = list(dict.fromkeys([1, gpus, *doubled]))
    trainings = [
        Setting("training", network, precision, xla, count, count)
        for count in counts
        for precision in precisions
        for xla in (False, True)
        for network in networks
    ]
    others = [
        Setting("network", network, precision, xla)
        for precision in precisions
        for xla in (False, True)
        for network in networks
    ]
    cases = [Setting("case", network) for network in networks]
    first = len(networks) * 2  # the first precision on one GPU
    return [
        *trainings[:first],
        *others[:first],
        *cases,
        *[setting for setting in trainings[first:] if setting.gpus in (1, gpus)],
        *others[first:],
        *[setting for setting in trainings[first:] if setting.gpus not in (1, gpus)],
    ]


def measure_all(settings, scale, root, deadline):
    """Measures settings until the deadline and prints their rows.

    Returns:
        (rows, settings that were skipped).
    """
    print(
        f"{'':52} {'batch':>5} {'images/s':>9} {'repeated':>9} {'waiting':>8} {'peak GB':>8} "
        f"{'NVIDIA':>7}"
    )
    rows, skipped, longest = [], [], 0.0
    for setting in settings:
        began = time.monotonic()
        if began + longest > deadline:
            skipped.append(setting)
            continue
        task = {**dataclasses.asdict(setting), "scale": dataclasses.asdict(scale), "root": root}
        for figures in run_child(task, deadline):
            rows.append({**dataclasses.asdict(setting), **figures})
            print(row_text(setting, rows[-1]), flush=True)
        longest = max(longest, time.monotonic() - began)
    return rows, skipped


def run_child(task, deadline):
    """Runs a task in a process of its own; yields the dicts that it prints, one a line.

    The last is `{"error": reason}` if the process fails or is not done by the deadline.
    """
    from brats_tfrecord.training.distribution import cpu_memory, gpu_settings

    environment = gpu_settings.tuned(cpu_memory.tuned(os.environ), xla=task.get("xla", False))
    child = subprocess.Popen(
        [sys.executable, __file__, "--child", json.dumps(task)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    left = deadline - time.monotonic()
    try:
        output, errors = child.communicate(timeout=max(1, left))
        error = (errors.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        child.kill()
        output, _ = child.communicate()
        error = "not done in time"
    yield from (json.loads(line) for line in output.splitlines() if line.startswith("{"))
    if child.returncode:
        yield {"error": error[:160]}


def row_text(setting, row):
    """Formats a row of the table."""

    def cell(name, width, form):
        value = row.get(name)
        return f"{'' if value is None else format(value, form):>{width}}"

    if "error" in row:
        return f"{setting.title():52} {row.get('batch', ''):>5} {row['error']}"
    if setting.task == "case":
        stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in row["stages"].items())
        return f"{setting.title():52} {row['seconds']:.2f} s a case ({stages})"
    nvidia = published(row)
    return (
        f"{setting.title():52} {row['batch']:>5} {cell('images', 9, '.1f')} "
        f"{cell('repeated', 9, '.1f')} {cell('waiting', 8, '.0%')} {cell('peak_gb', 8, '.2f')} "
        f"{'' if nvidia is None else nvidia:>7}"
    )


def published(row):
    """NVIDIA's images a second for the same task, batch and number of GPUs, or None."""
    figures = PUBLISHED.get((row["task"], row["precision"] in BITS_16, row["gpus"]), {})
    return figures.get(row.get("batch"))


def summarise(rows, skipped, gpus):
    """Prints what was skipped, and the JSON line."""
    for setting in skipped:
        print(f"{setting.title():52} skipped: no time left within --minutes")
    best = {}
    for row in rows:
        is_peer = row["network"] == "unet_nn" and row["precision"] in BITS_16
        if is_peer and row["task"] == "training" and row["gpus"] == 1 and "images" in row:
            best[row["batch"]] = max(best.get(row["batch"], 0), row["images"])
    peers = PUBLISHED["training", True, 1]
    print(
        json.dumps(
            {
                "name": "gpu",
                "unit": "images per second",
                "ours": max(best.values(), default=None),
                "peers": {NVIDIA: max(peers.values())},
                "ratio": min((best[batch] / peers[batch] for batch in best), default=None),
                "device": sorted(set(gpus)) or ["CPU"],
                "rows": rows,
                "skipped": [setting.title() for setting in skipped],
            }
        )
    )


def serve(task):
    """Runs a child process: prints one JSON object for every measurement."""
    if task["task"] == "machine":
        print(json.dumps(describe_machine()))
        return 0
    root, scale = Path(task.pop("root")), Scale(**task.pop("scale"))
    setting = Setting(**task)
    measure = {"training": measure_training, "network": measure_network, "case": measure_case}
    for figures in measure[setting.task](setting, scale, root):
        print(json.dumps(figures), flush=True)
    return 0


def describe_machine():
    """Returns the names of the GPUs, or why TensorFlow cannot use them."""
    import tensorflow as tf

    from brats_tfrecord.errors import InputError
    from brats_tfrecord.training.distribution import gpus

    try:
        details = map(tf.config.experimental.get_device_details, gpus.choose("all"))
        return {"gpus": [gpu.get("device_name", "GPU") for gpu in details]}
    except InputError as error:
        return {"error": str(error)}


def measure_training(setting, scale, root):
    """Trains with every batch; yields the figures of each."""
    from bench_loader import make_records

    dataset = make_records(root / f"records{scale.extent}", scale.cases, (scale.extent,) * 3)
    for batch in scale.batches:
        with explained(batch) as figures:
            trainer = make_trainer(setting, scale, dataset.root, batch)
            figures.update(time_training(trainer, scale.seconds))
            figures["peak_gb"] = peak_gigabytes()
        yield figures


def make_trainer(setting, scale, data_dir, batch):
    """Makes the trainer of a run on some devices, with `batch` patches for each."""
    from brats_tfrecord.training import loop
    from brats_tfrecord.training.train_options import TrainOptions
    from brats_tfrecord.training.trainer import Trainer

    options = TrainOptions(
        str(data_dir),
        "unused",
        validation_fold="none",
        patch_size=scale.patch,
        filters=scale.filters,
        batch_size=batch * setting.devices,
        epochs=10**6,
        network=setting.network,
        precision=setting.precision,
        xla=setting.xla,
        gpus=",".join(map(str, range(setting.gpus))) or "none",
        virtual_devices=0 if setting.gpus or setting.devices == 1 else setting.devices,
    )
    return Trainer(options, *loop.prepare(options))


def time_training(trainer, seconds):
    """Times steps of a trainer with real input, then with one batch repeated.

    The result is read after the last step only, so the host may prepare the next step while the
    GPUs compute.

    Returns:
        dict of `images` and `repeated`, images a second, and `waiting`, the share of the time by
        which real input takes longer.
    """
    batches, size = iter(trainer.train_batches()), trainer.options.batch_size
    batch = next(batches)
    repeated = size / seconds_per_call(lambda: trainer.train_step(batch).sound, seconds)
    images = size / seconds_per_call(lambda: trainer.train_step(next(batches)).sound, seconds)
    return {"images": images, "repeated": repeated, "waiting": max(0.0, 1 - images / repeated)}


def measure_network(setting, scale, root):
    """Predicts patches with the network alone; yields the figures of every batch."""
    import tensorflow as tf

    from brats_tfrecord.training.distribution import devices
    from brats_tfrecord.training.network.network_options import NETWORKS, NetworkOptions
    from brats_tfrecord.training.network.networks import build_network

    devices.make_strategy("0" if setting.gpus else "none")
    defaults = NETWORKS[setting.network]
    filters = scale.filter_counts or defaults.filters
    options = NetworkOptions(setting.network, 4, 4, "softmax", filters, defaults.rates(filters))
    model = build_network(options, precision=setting.precision, seed=0).model
    predict = tf.function(
        lambda image: tf.reduce_mean(model(image, training=False)), jit_compile=setting.xla
    )
    for batch in scale.batches:
        with explained(batch) as figures:
            image = tf.random.stateless_normal((batch, *[scale.patch] * 3, 4), (0, 0))
            seconds = seconds_per_call(functools.partial(predict, image), scale.seconds)
            figures["images"] = batch / seconds
            figures["peak_gb"] = peak_gigabytes()
        yield figures


def measure_case(setting, scale, root):
    """Segments a phantom case, twice; yields the seconds of the second time."""
    from bench_segment import write_model

    from brats_tfrecord.cohort import layouts
    from brats_tfrecord.phantom import generate
    from brats_tfrecord.pieces import WHOLE_VOXELS
    from brats_tfrecord.serving.predict import Segmenter

    generate.write_cohort(root / "cohort", 1, seed=0, shape=tuple(scale.case_shape))
    whole_voxels = WHOLE_VOXELS if setting.network == "unet" else 0
    write_model(root / setting.network, setting.network, whole_voxels, scale.filter_counts)
    segmenter, case = Segmenter(root / setting.network), layouts.find_cases(root / "cohort")[0]
    for _ in range(2):
        segmentation = segmenter.segment(case)
    yield {"seconds": sum(segmentation.seconds.values()), "stages": segmentation.seconds}


@contextlib.contextmanager
def explained(batch):
    """Context with the figures of a batch; too little memory becomes their `error`."""
    import tensorflow as tf

    figures = {"batch": batch}
    try:
        yield figures
    except tf.errors.ResourceExhaustedError:
        figures["error"] = "out of memory"


def seconds_per_call(call, seconds):
    """Times calls that leave their result on the device, after a warm-up.

    Args:
        call: function that returns a scalar tensor.
        seconds: about how long to measure.

    Returns:
        Mean seconds of a call, until the result of the last one is read.
    """
    for _ in range(WARM_UP - 1):
        float(call())
    single = timed(call, 1)
    count = int(min(MOST_STEPS, max(FEWEST_STEPS, seconds / single)))
    return timed(call, count) / count


def timed(call, count):
    """Returns the seconds of `count` calls."""
    began = time.perf_counter()
    for _ in range(count):
        result = call()
    float(result)
    return time.perf_counter() - began


def peak_gigabytes():
    """Peak memory of the first GPU since the last call, in GB; None without a GPU."""
    import tensorflow as tf

    if not tf.config.list_logical_devices("GPU"):
        return None
    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    tf.config.experimental.reset_memory_stats("GPU:0")
    return peak / 1e9


if __name__ == "__main__":
    sys.exit(main())
