"""Measures what bounds the training input on one machine, and projects it to more cores.

The projection is arithmetic, not a measurement:

    rate(cores) = min(readers / core seconds a patch, 1 / lock seconds a patch),
    readers = min(cores, input_pipeline.MOST_READERS)

Core seconds are those of all threads while patches are made, without the work of the device. Lock
seconds are those in which no other Python thread runs, because the thread that reads holds the
interpreter lock or hands it over. The projection assumes that a core keeps its speed while all
cores work. The memory traffic at the projected rate is printed, to be compared with that of the
machine.
"""

import contextlib
import os
import sys
import threading
import time
from typing import NamedTuple
from unittest import mock

CORES = (2, 16, 32, 64)
_ALONE_SECONDS = 0.5


class Costs(NamedTuple):
    """What one patch costs.

    Attributes:
        core_seconds: processor time of all threads.
        lock_seconds: time in which no other Python thread runs.
        reads: system calls that read.
        bytes_read: bytes that they return.
        bytes_made: bytes of image and mask as TensorFlow gets them.
    """

    core_seconds: float
    lock_seconds: float
    reads: float
    bytes_read: float
    bytes_made: float

    @property
    def bytes_moved(self) -> float:
        """Least memory traffic: read; written and fetched; augmented, which reads and writes."""
        return self.bytes_read + 4 * self.bytes_made

    def rate(self, cores: int, most_readers: int) -> float:
        """Returns the projected number of patches a second."""
        return min(min(cores, most_readers) / self.core_seconds, 1 / self.lock_seconds)


def measure(make_dataset, patches):
    """Measures the `Costs` of a patch.

    Args:
        make_dataset: function () -> the batches of `patches` patches.
        patches: number of patches.
    """
    dataset = make_dataset()
    [first] = dataset.take(1)
    bytes_made = sum(first[name].numpy().nbytes / len(first[name]) for name in ("image", "mask"))
    exhaust(dataset)  # the first time it opens the files and checks the records
    began = time.process_time()
    exhaust(dataset)
    core_seconds = time.process_time() - began
    # One reader: the second core is for the thread that waits for the lock.
    with mock.patch.object(os, "sched_getaffinity", lambda process: {0}):
        dataset = make_dataset()
    exhaust(dataset)
    with counted_reads() as sizes:
        exhaust(dataset)
    return Costs(
        core_seconds / patches,
        lock_seconds(lambda: exhaust(dataset)) / patches,
        len(sizes) / patches,
        sum(sizes) / patches,
        bytes_made,
    )


def exhaust(dataset):
    """Makes all batches."""
    for _ in dataset:
        pass


def lock_seconds(work):
    """Returns how long another Python thread stood still while `work` ran, in seconds.

    Another thread counts as fast as it can, first alone, then beside `work`. Needs two idle cores.
    """
    count, stop = 0, threading.Event()

    def spin():
        nonlocal count
        while not stop.is_set():
            count += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-3)  # the default makes every call that releases the lock wait 5 ms
    spinner = threading.Thread(target=spin)
    spinner.start()
    try:
        first, began = count, time.perf_counter()
        time.sleep(_ALONE_SECONDS)
        per_second = (count - first) / (time.perf_counter() - began)
        first, began = count, time.perf_counter()
        work()
        return max(1e-6, time.perf_counter() - began - (count - first) / per_second)
    finally:
        stop.set()
        spinner.join()
        sys.setswitchinterval(interval)


@contextlib.contextmanager
def counted_reads():
    """Context with a list to which every `os.preadv` appends the bytes it returned."""
    sizes, preadv = [], os.preadv

    def spy(*arguments):
        sizes.append(preadv(*arguments))
        return sizes[-1]

    with mock.patch.object(os, "preadv", spy):
        yield sizes


def describe(costs, size, level, most_readers):
    """Returns the lines to print for patches of an edge length and an augmentation level."""
    rates = {cores: costs.rate(cores, most_readers) for cores in CORES}
    return (
        f"one patch of {size}x{size}x{size}, --augment={level}: "
        f"{costs.core_seconds * 1e3:.1f} core-ms, {costs.lock_seconds * 1e3:.2f} ms under the "
        f"interpreter lock, {costs.reads:.0f} reads, {costs.bytes_read / 1e6:.1f} MB read, "
        f"{costs.bytes_made / 1e6:.1f} MB made\n"
        "  projected, not measured (loader_costs.py has the formula), patches/s: "
        + ", ".join(f"{cores} cores {rate:.0f}" for cores, rate in rates.items())
        + f"; {costs.bytes_moved * max(rates.values()) / 1e9:.0f} GB/s of memory traffic at "
        f"{max(rates.values()):.0f}"
    )
