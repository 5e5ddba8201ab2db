"""Measures what bounds the training input on one machine, and projects it to more cores.

The projection is arithmetic, not a measurement:

    rate(cores) = min(readers / core seconds a patch, 1 / lock seconds a patch),
    readers = min(cores, input_pipeline.MOST_READERS)

Core seconds are the processor time of all threads while patches are made, without the work of the
device. Lock seconds are those in which a thread holds Python's interpreter lock, so that no other
one reads. They are the processor time of the same pipeline with the same number of calls on patches
of few voxels, because arrays are read, copied and looked up without the lock. This is an upper
limit: it includes TensorFlow's own work.

The projection assumes that a core keeps its speed while all cores work. The memory traffic at the
projected rate is printed, to be compared with that of the machine.
"""

import contextlib
import os
import time
from typing import NamedTuple
from unittest import mock

from brats_tfrecord import brain
from brats_tfrecord.training.data import augment_intensity, half_precision, record_reader, sampling

CORES = (2, 16, 32, 64)
THIN = 3
"""Extent in Y and Z of the volumes of few voxels."""
VOXEL_BYTES = 8
"""Four modalities in float16."""


class Costs(NamedTuple):
    """What one patch costs.

    Attributes:
        core_seconds: processor time of all threads.
        lock_seconds: time under the interpreter lock.
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


def measure(dataset, patches, thin_dataset, thin_patches, extent, size):
    """Measures the `Costs` of a patch.

    Args:
        dataset: batches of patches.
        patches: their number.
        thin_dataset: batches of patches of volumes with the extent `THIN` in Y and Z.
        thin_patches: their number.
        extent, size: edges of the volumes and of the patches.
    """
    [first] = dataset.take(1)
    bytes_made = sum(first[name].numpy().nbytes / len(first[name]) for name in ("image", "mask"))
    core_seconds = processor_seconds(dataset)
    with counted_reads() as sizes:
        exhaust(dataset)
    with as_many_calls(extent, size):
        lock_seconds = processor_seconds(thin_dataset)
    return Costs(
        core_seconds / patches,
        lock_seconds / thin_patches,
        len(sizes) / patches,
        sum(sizes) / patches,
        bytes_made,
    )


def processor_seconds(dataset):
    """Returns the processor time of making all batches a second time."""
    exhaust(dataset)  # opens the files and checks the records
    began = time.process_time()
    exhaust(dataset)
    return time.process_time() - began


def exhaust(dataset):
    """Makes all batches."""
    for _ in dataset:
        pass


@contextlib.contextmanager
def as_many_calls(extent, size):
    """Context in which patches of thin volumes take as many calls as those of whole ones."""
    # Thin patches take whole planes, so it is decided here whether a read takes several of them.
    skips = (extent - size) * extent * VOXEL_BYTES > record_reader.SKIP_BYTES
    planes = 1 if skips else record_reader.READ_BYTES // (extent**2 * VOXEL_BYTES)
    read_bytes = planes * THIN**2 * VOXEL_BYTES
    block = augment_intensity.BLOCK * THIN**2 // size**2
    sampled = max(1, sampling.BLOCK * THIN**2 // size**2)
    values = half_precision.ALL_FLOAT16[:64]
    with (
        mock.patch.object(record_reader, "READ_BYTES", read_bytes),
        mock.patch.object(augment_intensity, "BLOCK", block),
        mock.patch.object(brain, "BLOCK", brain.BLOCK * THIN**2 // size**2),
        mock.patch.object(sampling, "BLOCK", sampled),
        mock.patch.object(half_precision, "ALL_FLOAT16", values),
    ):
        yield


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


def describe_brain_channel(without, marked):
    """Returns the line to print for the `Costs` that --brain_channel adds to a patch."""
    return (
        f"  --brain_channel adds {(marked.core_seconds - without.core_seconds) * 1e3:.1f} core-ms, "
        f"{(marked.lock_seconds - without.lock_seconds) * 1e3:.2f} ms of them under the "
        "interpreter lock"
    )
