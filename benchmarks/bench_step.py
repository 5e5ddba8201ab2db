"""Compares our training step with PyTorch's: the documented U-Net, batch 1, two cores.

Usage:
  python benchmarks/bench_step.py
  python benchmarks/bench_step.py --settings=64:float32,64:bfloat16 --rounds=20

Both libraries train the same network (16 to 256 filters, three channels, four classes, dropout,
5,645,828 parameters) with float32 softmax cross-entropy and Adam 1e-3 on the same volume of noise.
PyTorch runs in both memory layouts, and in the faster one also with the allocator settings that
`tools/train.py` uses. bfloat16 is Keras's mixed_bfloat16 and PyTorch's autocast. Our step is that
of a real run: from float16 images and packed masks, under MirroredStrategy, with accuracy. Every
side is a process of its own. After warm-up steps that are not counted, the sides take turns, one
step each; every figure is the median.

The peak is the speed of a product of 4096x4096 matrices in the faster of the two libraries,
measured between the steps; `share` is the speed of the step's convolutions relative to it. `MB` is
the peak memory of a side. Prints a table; the last line is one JSON object: our seconds at the
first setting, and the worst ratio to the strongest peer over all settings. PyTorch comes with the
extra `peers`; without it, the exit code is 2.
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

from brats_tfrecord.training.network.network_options import NETWORKS

CORES, WARM_UP = 2, 3
FILTERS = NETWORKS["unet"].filters
DROPOUT = NETWORKS["unet"].rates(FILTERS)
CHANNELS, CLASSES = 3, 4
PARAMETERS = 5_645_828
PEAK_EXTENT = 4096
SIDES = {
    "ours": ("ours", True),
    "PyTorch, channels first": ("contiguous_format", False),
    "PyTorch, channels last": ("channels_last_3d", False),
    "PyTorch, channels last, huge pages": ("channels_last_3d", True),
}
"""Name -> library or memory layout, and whether to use the allocator settings of training."""


def main():
    """Measures every setting; returns the exit code."""
    options = parse_arguments()
    if options.child:
        return serve(*options.child.split(":"))
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if importlib.util.find_spec("torch") is None:
        print(
            "bench_step.py compares with PyTorch, which is not installed: pip install "
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
    """Parses the command line; exits with code 2 on a bad value."""
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
    """Parses `64:float32,…` to a list of (edge, type)."""
    pairs = re.findall(r"(\d+):(float32|bfloat16)(?:,|$)", text)
    if ",".join(":".join(pair) for pair in pairs) != text or any(int(n) % 16 for n, _ in pairs):
        raise argparse.ArgumentTypeError(
            f"{text!r}; expected such as 64:float32,144:bfloat16, edges multiples of 16"
        )
    return [(int(extent), dtype) for extent, dtype in pairs]


def measure(extent, dtype, rounds):
    """Measures one setting and prints it; returns the median seconds per step of each side."""
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
                    side.ask("peak")  # warm-up; creates the matrices at the first call
                    peaks[name].append(2 * PEAK_EXTENT**3 / side.ask("peak"))
        memory = {name: side.ask("memory") for name, side in sides.items()}
    row = {name: statistics.median(values) for name, values in seconds.items()}
    peak = max(statistics.median(values) for values in peaks.values())
    print(f"{extent}x{extent}x{extent} {dtype}, matrix peak {peak / 1e9:.0f} GFLOP/s")
    print(f"  {'':34} {'s/step':>8} {'ratio':>6} {'share':>6} {'MB':>6}")
    for name, median in row.items():
        print(
            f"  {name:34} {median:8.3f} {median / row['ours']:6.2f} "
            f"{step_flops(extent) / median / peak:6.0%} {memory[name]:6.0f}",
            flush=True,
        )
    return row


def step_flops(extent):
    """Counts the multiplications and additions of a step's convolutions.

    The backward pass computes the gradients of the input and of the kernel, each as expensive as
    the forward pass; the gradient of the image is not needed.
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
            # Transposed convolution, one tap per output voxel; then the block of the decoder.
            forward += convolution(level, 1, FILTERS[level + 1], count)
            forward += convolution(level, 27, 2 * count, count)
            forward += convolution(level, 27, count, count)
    return 3 * forward - first


class Side:
    """A child process that makes a step, or multiplies matrices, on request."""

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
        """Returns the child's answer, a number."""
        print(question, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def serve(kind, extent, dtype):
    """Runs the child process: answers every line of its input."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    make = make_our_step if kind == "ours" else make_torch_step
    step, multiply = make(int(extent), dtype, kind)
    for _ in range(WARM_UP):
        step()
    memory = peak_megabytes()  # before the matrix products, which need memory too
    answers = {
        "step": lambda: timed(step),
        "peak": lambda: timed(multiply),
        "memory": lambda: memory,
        "ready": lambda: 0,
    }
    for question in sys.stdin:
        answer = answers[question.strip()]()
        print(json.dumps(answer), flush=True)
    return 0


def timed(run):
    """Returns the seconds that a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def peak_megabytes():
    """Returns the peak memory of this process. getrusage would include that of the parent."""
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) / 1024


def make_our_step(extent, dtype, _):
    """Makes two functions: one trains on the batch once, one multiplies a matrix by itself."""
    import numpy as np
    import tensorflow as tf

    from brats_tfrecord.targets import make_targets
    from brats_tfrecord.training import steps
    from brats_tfrecord.training.distribution import devices
    from brats_tfrecord.training.network import networks
    from brats_tfrecord.training.network.network_options import NetworkOptions
    from brats_tfrecord.training.optimization import losses, optimizers, updates

    strategy, targets = devices.make_strategy("none"), make_targets("classes", CLASSES)
    options = NetworkOptions("unet", CHANNELS, CLASSES, "softmax", FILTERS, DROPOUT)
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
    """Does the same as `make_our_step` in PyTorch, in the given memory layout."""
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
    """Makes the network of `training.network.unet` in PyTorch, in training mode."""
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
            with torch.autocast("cpu", enabled=False):  # our head is float32, too
                return self.head(x.float())

    return UNet()


def volume(extent):
    """Makes noise: image float32 [1, X, Y, Z, 3] and classes uint8 [1, X, Y, Z]."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (1, extent, extent, extent)
    return (
        rng.standard_normal((*shape, CHANNELS), np.float32),
        rng.integers(0, CLASSES, shape, np.uint8),
    )


if __name__ == "__main__":
    sys.exit(main())
