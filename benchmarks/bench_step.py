"""Our training step against PyTorch's: the documented U-Net, batch 1, two cores, interleaved.

Usage:
  python benchmarks/bench_step.py
  python benchmarks/bench_step.py --settings=64:float32,64:bfloat16 --rounds=20

The same network in both (16 to 256 filters, three channels in, four classes, dropout, 5,645,828
parameters), softmax cross-entropy in float32, and Adam 1e-3, on the same volume of noise; PyTorch
in both memory layouts, and once more in the faster one under the allocator settings that
`tools/train.py` gives itself. bfloat16 is Keras's mixed_bfloat16 and PyTorch's autocast. Ours is
what training runs: from float16 and packed masks, under MirroredStrategy, accuracy counted in.
Every side is a process of its own; all take turns, one step each, after steps that are not
counted, and every figure is the median.

The peak is the faster of both libraries' products of 4096x4096 matrices of the type, measured
between the steps; `share` is what the step's convolutions make of it. `MB` is the most memory a
side ever held. Prints a table; the last line is one JSON object: our seconds at the first setting,
and the worst ratio against the strongest peer over all. PyTorch comes with the extra `peers`;
without it, exit 2.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

CORES, WARM_UP = 2, 3
FILTERS = (16, 32, 64, 128, 256)
DROPOUT = (0.1, 0.1, 0.2, 0.2, 0.3, 0.2, 0.2, 0.1, 0.1)
CHANNELS, CLASSES = 3, 4
PARAMETERS = 5_645_828
PEAK_EXTENT = 4096
SIDES = {
    "ours": ("ours", True),
    "PyTorch, channels first": ("contiguous_format", False),
    "PyTorch, channels last": ("channels_last_3d", False),
    "PyTorch, channels last, huge pages": ("channels_last_3d", True),
}
"""Name -> library or memory layout, and whether its allocator is set as training's is."""


def main():
    """Measures every setting; returns the exit code."""
    options = parse_arguments()
    if options.child:
        return serve(*options.child.split(":"))
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if importlib.util.find_spec("torch") is None:
        print(
            "bench_step.py compares with PyTorch, which is not there: pip install "
            "'brats-tfrecord[peers]'",
            file=sys.stderr,
        )
        return 2
    rows = [measure(extent, dtype, options.rounds) for extent, dtype in options.settings]
    ours = [row.pop("ours") for row in rows]
    print(
        json.dumps(
            {
                "name": "step",
                "unit": "s",
                "ours": ours[0],
                "peers": rows[0],
                "ratio": min(min(row.values()) / own for row, own in zip(rows, ours)),
            }
        )
    )
    return 0


def parse_arguments():
    """The command line; a bad value ends with exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--settings",
        default="64:float32,64:bfloat16,144:bfloat16",
        type=settings,
        help="comma-separated edge:type, float32 or bfloat16",
    )
    parser.add_argument("--rounds", type=int, default=15, help="steps of each side")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # side:edge:type of a process
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds={options.rounds}: expected 1 or more")
    return options


def settings(text):
    """`64:float32,…` as pairs."""
    found = re.findall(r"(\d+):(float32|bfloat16)(?:,|$)", text)
    if ",".join(":".join(pair) for pair in found) != text or any(int(n) % 16 for n, _ in found):
        raise argparse.ArgumentTypeError(
            f"{text!r}; expected such as 64:float32,144:bfloat16, edges multiples of 16"
        )
    return [(int(extent), dtype) for extent, dtype in found]


def measure(extent, dtype, rounds):
    """Prints the rows of one setting; returns each side's median seconds a step."""
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(Side(*kind, extent, dtype)) for name, kind in SIDES.items()
        }
        seconds = {name: [] for name in sides}
        peaks = {name: [] for name in sides}
        for number in range(rounds):
            for name, side in sides.items():
                seconds[name].append(side.ask("step"))
            if number % 5 == 0:
                for name, side in sides.items():
                    side.ask("peak")  # makes the matrices, the first time
                    peaks[name].append(2 * PEAK_EXTENT**3 / side.ask("peak"))
        memory = {name: side.ask("memory") for name, side in sides.items()}
    row = {name: statistics.median(found) for name, found in seconds.items()}
    peak = max(statistics.median(found) for found in peaks.values())
    print(f"{extent}x{extent}x{extent} {dtype}, matrix peak {peak / 1e9:.0f} GFLOP/s")
    print(f"  {'':34} {'s a step':>8} {'ratio':>6} {'share':>6} {'MB':>6}")
    for name, found in row.items():
        print(
            f"  {name:34} {found:8.3f} {found / row['ours']:6.2f} "
            f"{step_flops(extent) / found / peak:6.0%} {memory[name]:6.0f}",
            flush=True,
        )
    return row


def step_flops(extent):
    """Multiplications and additions of a step's convolutions.

    Backward takes the input's and the kernel's gradient, each as much as forward; nobody asks for
    the image's.
    """

    def convolution(level, kernel, before, after):
        return 2 * (extent // 2**level) ** 3 * kernel * before * after

    last = len(FILTERS) - 1
    first = convolution(0, 27, CHANNELS, FILTERS[0])
    forward = first + convolution(0, 1, FILTERS[0], CLASSES)
    for level, count in enumerate(FILTERS):
        if level:
            forward += convolution(level, 27, FILTERS[level - 1], count)
        forward += convolution(level, 27, count, count)
        if level < last:
            # Up from below, each output voxel by one tap; then the block of the decoder.
            forward += convolution(level, 1, FILTERS[level + 1], count)
            forward += convolution(level, 27, 2 * count, count)
            forward += convolution(level, 27, count, count)
    return 3 * forward - first


class Side:
    """A process that steps, or multiplies matrices, when it is asked to."""

    def __init__(self, kind, tuned, extent, dtype):
        from brats_tfrecord.training.distribution import cpu_memory

        self._process = subprocess.Popen(
            [sys.executable, __file__, f"--child={kind}:{extent}:{dtype}"],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=cpu_memory.tuned(os.environ) if tuned else None,
        )

    def __enter__(self):
        self.ask("ready")
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def ask(self, question):
        """Its answer, a number."""
        print(question, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def serve(kind, extent, dtype):
    """A child process: answers every line of its input."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    make = make_our_step if kind == "ours" else make_torch_step
    step, multiply = make(int(extent), dtype, kind)
    for _ in range(WARM_UP):
        step()
    most = peak_megabytes()  # before the matrix products, which hold memory of their own
    answers = {
        "step": lambda: timed(step),
        "peak": lambda: timed(multiply),
        "memory": lambda: most,
        "ready": lambda: 0,
    }
    for question in sys.stdin:
        answer = answers[question.strip()]()
        print(json.dumps(answer), flush=True)
    return 0


def timed(run):
    """Seconds it takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def peak_megabytes():
    """The most that this process ever held. Not getrusage: that starts with the parent's."""
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) / 1024


def make_our_step(extent, dtype, _):
    """Functions that learn from the batch once, and that multiply a matrix by itself."""
    import numpy as np
    import tensorflow as tf

    from brats_tfrecord.targets import make_targets
    from brats_tfrecord.training import steps
    from brats_tfrecord.training.distribution import devices
    from brats_tfrecord.training.network import networks
    from brats_tfrecord.training.network.network_options import NetworkOptions
    from brats_tfrecord.training.optimization import losses, optimizers, updates

    strategy, targets = devices.make_strategy("none"), make_targets("classes", CLASSES)
    options = NetworkOptions("unet", CHANNELS, CLASSES, "softmax", FILTERS, DROPOUT, False)
    with strategy.scope():
        network = networks.build_network(
            options, seed=0, precision="mixed_bfloat16" if dtype == "bfloat16" else "float32"
        )
        update = updates.Updates(
            strategy, optimizers.make_optimizer("adam"), network.trainer.trainable_variables
        )
    assert network.trainer.count_params() == PARAMETERS
    loss = losses.deep_supervision(losses.make_loss("cross_entropy", targets))
    train = steps.make_train_step(strategy, network, targets, loss, update, 1)
    image, classes = volume(extent)
    batch = {
        "image": tf.constant(image.astype(np.float16)),
        "case": tf.constant([0]),
        "mask": tf.constant(np.uint8(1) << classes),
        "number": tf.constant([0], tf.int64),
    }
    matrix = functools.cache(lambda: tf.cast(tf.random.normal([PEAK_EXTENT] * 2), dtype))
    return (lambda: float(train(batch)[0])), lambda: tf.matmul(matrix(), matrix())[0, 0].numpy()


def make_torch_step(extent, dtype, layout):
    """As `make_our_step`, of PyTorch in a memory layout."""
    import torch

    torch.set_num_threads(CORES)
    layout = getattr(torch, layout)
    model = make_torch_unet().to(memory_format=layout)
    assert sum(weights.numel() for weights in model.parameters()) == PARAMETERS
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    image, classes = (torch.from_numpy(array) for array in volume(extent))
    image = image.movedim(-1, 1).contiguous(memory_format=layout)
    classes = classes.long()

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(image)
        loss = torch.nn.functional.cross_entropy(logits, classes)
        loss.backward()
        optimizer.step()
        return loss.item()

    matrix = functools.cache(lambda: torch.randn([PEAK_EXTENT] * 2).to(getattr(torch, dtype)))
    return step, lambda: matrix() @ matrix()


def make_torch_unet():
    """The network of `training.network.unet` in PyTorch, training."""
    import torch
    from torch import nn

    def block(before, after, rate):
        return nn.Sequential(
            nn.Conv3d(before, after, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Dropout(rate),
            nn.Conv3d(after, after, 3, padding=1),
            nn.ReLU(inplace=True),
        )

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            last = len(FILTERS) - 1
            self.down = nn.ModuleList(
                map(block, (CHANNELS, *FILTERS), FILTERS, DROPOUT[: last + 1])
            )
            self.lift = nn.ModuleList(
                nn.ConvTranspose3d(FILTERS[n + 1], FILTERS[n], 2, 2) for n in range(last)
            )
            self.up = nn.ModuleList(
                block(2 * FILTERS[n], FILTERS[n], DROPOUT[-1 - n]) for n in range(last)
            )
            self.head = nn.Conv3d(FILTERS[0], CLASSES, 1)

        def forward(self, x):
            skips = []
            for encoder in self.down[:-1]:
                skips.append(encoder(x))
                x = nn.functional.max_pool3d(skips[-1], 2)
            x = self.down[-1](x)
            for lift, decoder, skip in zip(self.lift[::-1], self.up[::-1], skips[::-1]):
                x = decoder(torch.cat([lift(x), skip], 1))
            with torch.autocast("cpu", enabled=False):  # ours has a float32 head, too
                return self.head(x.float())

    return UNet()


def volume(extent):
    """Noise: float32 [1, X, Y, Z, 3], and uint8 classes [1, X, Y, Z]."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (1, extent, extent, extent)
    return (
        rng.standard_normal((*shape, CHANNELS), np.float32),
        rng.integers(0, CLASSES, shape, np.uint8),
    )


if __name__ == "__main__":
    sys.exit(main())
