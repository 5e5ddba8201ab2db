"""Reads records into batches: one function for training, one for evaluation.

Batches hold the image and mask as stored, float16 and packed, a seventh of the size of what the
network sees, which is computed from them on the device (`steps`). Any example of any epoch is
computed independently, from its seed and the bytes of its patch. Nothing is shuffled in memory,
and training resumes anywhere without delay.

Memory does not grow with the cohort: `READ_AHEAD` + 2 batches, and one batch for each processor
core (at most `MOST_READERS`). At 128x128x128 and three modalities an example has 15 MB: with batch
2 about 180 MB on two cores. --cache=memory adds every record that was read.
"""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from brats_tfrecord.records.manifest import Manifest
from brats_tfrecord.training.data import augment, augment_intensity, augment_space
from brats_tfrecord.training.data.record_reader import RecordReader

READ_AHEAD = 2
"""Batches that are prepared in advance."""

MOST_READERS = 64
"""Most batches prepared in parallel: more gain little, and each takes the memory of a batch."""

ALIGNMENT = 64
"""Alignment of TensorFlow's tensors in bytes."""

_ORDER = 0
"""Seed of the order of an epoch; its examples have the seeds from 1."""


@dataclass(frozen=True)
class Patches:
    """How training patches are drawn from the cases.

    Attributes:
        size: edge in voxels; a shorter axis of the crop is taken whole. 0 takes whole crops.
        per_case: patches of each case in an epoch. Each is read independently: a patch of half
            the crop's edge costs a quarter of its bytes.
        foreground_fraction: share of the patches that are centred on tumour.
        augmentation: probabilities and ranges of the transforms.
        foreground: what these patches are centred on: "voxels", any tumour voxel, or "classes", a
            voxel of a class of the case, each class equally likely.
    """

    size: int = 0
    per_case: int = 1
    foreground_fraction: float = 0.0
    augmentation: augment.Augmentation = augment.LEVELS["flips"]
    foreground: str = "voxels"

    def shape(self, crop_shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape (X, Y, Z) of the patches of a crop."""
        return tuple(min(self.size or extent, extent) for extent in crop_shape)


@dataclass(frozen=True)
class BatchShare:
    """The part of every batch that one process reads, and its split over the replicas.

    Attributes:
        worker: rank of this process among the processes that train together.
        workers: number of these processes.
        replicas: number of replicas of this process.
    """

    worker: int = 0
    workers: int = 1
    replicas: int = 1

    def example_numbers(
        self, first_batch: int, last_batch: int, batch_size: int
    ) -> tf.data.Dataset:
        """Returns the int64 numbers of this share's examples in a range of batches.

        Example k of batch b has the number b * batch_size + k, whichever process reads it.
        `last_batch` is not part of the range.
        """
        size = batch_size // self.workers
        return tf.data.Dataset.range(first_batch, last_batch).flat_map(
            lambda batch: tf.data.Dataset.range(size).map(
                lambda offset: batch * batch_size + self.worker * size + offset
            )
        )

    def replica_batch_size(self, batch_size: int) -> int:
        """Returns the number of examples of a batch for each replica."""
        return batch_size // (self.workers * self.replicas)


WHOLE_BATCH = BatchShare()
"""The share of a single process with a single replica."""


def make_train_dataset(
    manifest: Manifest,
    folds: Sequence[int],
    *,
    modalities: Sequence[str],
    brain_channel: bool = False,
    patches: Patches = Patches(),
    batch_size: int = 2,
    seed: int = 0,
    first_epoch: int = 0,
    first_step: int = 0,
    epochs: int = 1,
    share: BatchShare = WHOLE_BATCH,
    cache: str = "none",
    cache_dir: Path | str | None = None,
) -> tf.data.Dataset:
    """Makes the batches of epochs `first_epoch` … `epochs` - 1, one epoch after the other.

    A batch is a function of (seed, epoch, position in the epoch) alone: a run that starts at
    `first_step` of `first_epoch` sees the same batches as an unbroken run from there. An epoch
    has `steps_per_epoch` batches. It takes every case once in random order, then every case
    again until each was taken `patches.per_case` times, and fills its last batch with other
    patches of its first cases.

    Args:
        manifest: the dataset.
        folds: folds to train on.
        modalities: names of the image's channels, in that order.
        brain_channel: whether the brain is marked in the masks (`brain.MARK`).
        patches: how patches are drawn.
        batch_size: examples per batch, over all replicas.
        seed: 0 or more.
        first_epoch, first_step, epochs: counted from 0.
        share: the part of every batch to read.
        cache, cache_dir: as in `record_reader.RecordReader`.

    Returns:
        Dataset of dicts, for every batch one per replica: `image` in the stored dtype
        [B, X, Y, Z, C], packed `mask` uint8 [B, X, Y, Z], `case` int32 [B], indices into
        `manifest.case_ids(folds)`, and `number` int64 [B], unique in the whole run.

    Raises:
        InputError: a shard does not agree with the manifest.
    """
    reader = RecordReader(manifest, folds, modalities, cache=cache, cache_dir=cache_dir)
    steps = steps_per_epoch(manifest, folds, batch_size, patches.per_case)
    background = _background_of_case(reader, brain_channel)
    example = _TrainExamples(reader, background, patches, len(modalities), seed, steps * batch_size)
    numbers = share.example_numbers(first_epoch * steps + first_step, epochs * steps, batch_size)
    shape = (*patches.shape(manifest.crop_shape), len(modalities))
    return _batches(numbers, example, reader.image_dtype, shape, share, batch_size)


def make_eval_dataset(
    manifest: Manifest,
    folds: Sequence[int],
    *,
    modalities: Sequence[str],
    brain_channel: bool = False,
    batch_size: int = 1,
    share: BatchShare = WHOLE_BATCH,
    cache: str = "none",
    cache_dir: Path | str | None = None,
) -> tf.data.Dataset:
    """Makes batches of whole crops in which every case of `folds` counts exactly once.

    The last batch is padded with copies of weight 0, so that every replica has the same size.

    Args:
        manifest, folds, modalities, brain_channel, share, cache, cache_dir: as in
            `make_train_dataset`.
        batch_size: examples per batch, over all replicas.

    Returns:
        Dataset of dicts as in `make_train_dataset`, with `weight` float32 [B], 1 or, for a copy,
        0.
    """
    reader = RecordReader(manifest, folds, modalities, cache=cache, cache_dir=cache_dir)
    cases, crop_shape = len(reader.case_ids), manifest.crop_shape
    background = _background_of_case(reader, brain_channel)
    whole_crop = augment.PatchParameters(origin=np.zeros(3, int))

    def example(number, image, mask):
        case = number % cases
        augment_space.read_patch(reader, case, whole_crop, image, mask, background(case))
        return case

    numbers = share.example_numbers(0, -(-cases // batch_size), batch_size)
    shape = (*crop_shape, len(modalities))
    dataset = _batches(numbers, example, reader.image_dtype, shape, share, batch_size)
    return dataset.map(
        lambda batch: {**batch, "weight": tf.cast(batch["number"] < cases, tf.float32)}
    )


def steps_per_epoch(
    manifest: Manifest, folds: Sequence[int], batch_size: int, patches_per_case: int = 1
) -> int:
    """Returns the number of batches that hold every case at least `patches_per_case` times."""
    return -(-len(manifest.case_ids(folds)) * patches_per_case // batch_size)


def _background_of_case(reader, brain_channel):
    """Function (case) -> background of its channels, read once; None without a brain channel."""
    return functools.cache(reader.read_background) if brain_channel else lambda case: None


class _TrainExamples:
    """Function (number in the run, image, mask) that fills both and returns the case."""

    def __init__(self, reader, background, patches, channels, seed, examples_per_epoch):
        self._reader, self._background = reader, background
        self._patches, self._channels = patches, channels
        self._seed, self._examples_per_epoch = seed, examples_per_epoch
        self._patch_shape = patches.shape(reader.crop_shape)
        # Where two epochs meet, examples of both are prepared at the same time.
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    def __call__(self, number, image, mask):
        epoch, position = divmod(number, self._examples_per_epoch)
        case = self._order(epoch)[position]
        parameters = augment.draw_parameters(
            np.random.default_rng([self._seed, epoch, 1 + position]),
            self._patches.augmentation,
            self._reader.crop_shape,
            self._patch_shape,
            self._channels,
            self._patches.foreground_fraction,
            functools.partial(self._foreground, case),
        )
        background = self._background(case)
        augment_space.read_patch(self._reader, case, parameters, image, mask, background)
        augment_intensity.augment_intensities(image, parameters)
        return case

    def _foreground(self, case):
        if self._patches.foreground == "classes":
            return self._reader.read_classes(case)
        tumour = self._reader.read_tumour(case)
        return [tumour] if len(tumour) else []

    def _draw_order(self, epoch):
        """The case of each example of an epoch, int32: random permutations of all cases."""
        rng = np.random.default_rng([self._seed, epoch, _ORDER])
        cases = len(self._reader.case_ids)
        rounds = [rng.permutation(cases) for _ in range(-(-self._examples_per_epoch // cases))]
        return np.concatenate(rounds)[: self._examples_per_epoch].astype(np.int32)


def _batches(
    numbers: tf.data.Dataset,
    example: Callable,
    image_dtype: np.dtype,
    shape: tuple[int, ...],
    share: BatchShare,
    batch_size: int,
) -> tf.data.Dataset:
    """Computes batches of the examples of `numbers` in parallel, in order.

    Args:
        numbers: of `BatchShare.example_numbers`.
        example: function (number, image [X, Y, Z, C], mask) that fills both and returns the case.
        image_dtype: dtype of the images.
        shape: (X, Y, Z, C) of the images.
        share, batch_size: as in `make_train_dataset`.
    """
    size = share.replica_batch_size(batch_size)

    def read(numbers):
        images = _aligned_array((size, *shape), image_dtype)
        masks = _aligned_array((size, *shape[:3]), np.uint8)
        cases = [example(*arguments) for arguments in zip(numbers.tolist(), images, masks)]
        return images, masks, np.array(cases, np.int32)

    def load(numbers):
        dtypes = [tf.as_dtype(image_dtype), tf.uint8, tf.int32]
        images, masks, cases = tf.numpy_function(read, [numbers], dtypes, stateful=False)
        return {
            "image": tf.ensure_shape(images, (size, *shape)),
            "mask": tf.ensure_shape(masks, (size, *shape[:3])),
            "case": tf.ensure_shape(cases, [size]),
            "number": numbers,
        }

    readers = min(len(os.sched_getaffinity(0)), MOST_READERS)
    # drop_remainder gives a static batch size; the batches always divide evenly.
    dataset = numbers.batch(size, drop_remainder=True)
    dataset = dataset.map(load, num_parallel_calls=readers, deterministic=True)
    options = tf.data.Options()
    options.deterministic = True
    return dataset.prefetch(READ_AHEAD * share.replicas).with_options(options)


def _aligned_array(shape, dtype):
    """Allocates an array that TensorFlow takes over.

    TensorFlow copies arrays whose address is not a multiple of `ALIGNMENT`, and holds the
    interpreter lock meanwhile.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)
