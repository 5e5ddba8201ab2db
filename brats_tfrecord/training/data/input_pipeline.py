"""Reads records into batches: one function for training, one for evaluation.

A batch holds what was stored, float16 and packed: a seventh of what the network sees, which
is made of it on the device (`steps`). Any example of any epoch is made by itself, from its seed
and the bytes of its patch: nothing is shuffled in memory, and training goes on anywhere at once.

Memory does not grow with the cohort: `READ_AHEAD` + 2 batches, and for each of the processor's
cores (at most `MOST_READERS`) twice a patch. At 128x128x128 and three modalities an example has
15 MB: with batch 2 some 180 MB on two cores. --cache=memory adds every record that was read.
"""

import functools
import os
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from brats_tfrecord.training.data import augment, augment_intensity, augment_space
from brats_tfrecord.training.data.record_reader import RecordReader

READ_AHEAD = 2
"""Batches made before they are asked for; more would only stand there."""

MOST_READERS = 16
"""Examples made at a time: beyond, Python's lock costs more than another thread brings."""

_ORDER = 0
"""What is drawn first in an epoch; its examples follow, from 1."""


@dataclass(frozen=True)
class Share:
    """What one process has of every batch, and into how many parts its replicas take it.

    Attributes:
        worker, workers: this process's place among those that train together, and their number.
        replicas: of this process.
    """

    worker: int = 0
    workers: int = 1
    replicas: int = 1

    def of(self, first_batch, last_batch, batch_size):
        """Dataset of the int64 numbers of its examples in batches `first_batch` … `last_batch`-1.

        Example k of batch b has the number b * batch_size + k, whoever takes it.
        """
        size = batch_size // self.workers
        return tf.data.Dataset.range(first_batch, last_batch).flat_map(
            lambda batch: tf.data.Dataset.range(size).map(
                lambda place: batch * batch_size + self.worker * size + place
            )
        )

    def size(self, batch_size):
        """Examples of a batch that one replica takes."""
        return batch_size // (self.workers * self.replicas)


ALL = Share()
"""The whole batch in one piece."""


def make_train_dataset(
    manifest,
    folds,
    *,
    modalities,
    patch_size=0,
    foreground_fraction=0.0,
    patches_per_case=1,
    augmentation=augment.LEVELS["flips"],
    batch_size=2,
    seed=0,
    first_epoch=0,
    first_step=0,
    epochs=1,
    share=ALL,
    cache="none",
    cache_dir=None,
):
    """Makes the batches of epochs `first_epoch` … `epochs` - 1, one epoch after the other.

    What is in a batch depends on (seed, epoch, place in the epoch) alone: a run that starts at
    `first_step` of `first_epoch` sees what an unbroken run would have seen from there. An epoch
    has `steps_per_epoch` batches; it takes every case once, in an order of its own, then every
    case again until each was taken `patches_per_case` times, and fills its last batch with other
    patches of its first cases.

    Args:
        manifest: `records.manifest.Manifest`.
        folds: folds to train on.
        modalities: names of the image's channels to give, in that order.
        patch_size: edge in voxels of the random patches; a shorter axis of the crop is taken
            whole. 0 gives whole crops.
        foreground_fraction: share of the patches that are centred on tumour.
        patches_per_case: patches of each case an epoch. Each is read by itself: a patch of half
            the crop's edge costs a quarter of its bytes.
        augmentation: `augment.Augmentation`.
        batch_size: examples a batch, over all replicas.
        seed: int, 0 or more.
        first_epoch, first_step, epochs: counted from 0.
        share: `Share` of every batch to give.
        cache, cache_dir: as `record_reader.RecordReader` takes them.

    Returns:
        tf.data.Dataset of dicts, one a replica of every batch: `image` in the stored dtype
        [B, X, Y, Z, C], `mask` uint8 [B, X, Y, Z] packed, `case` int32 [B], places in
        `manifest.case_ids(folds)`, and `number` int64 [B], each example's own in the whole run.

    Raises:
        InputError: a shard that is not what the manifest says.
    """
    reader = RecordReader(manifest, folds, modalities, cache=cache, cache_dir=cache_dir)
    steps = steps_per_epoch(manifest, folds, batch_size, patches_per_case)
    shape = patch_shape(manifest.crop_shape, patch_size)

    @functools.lru_cache(maxsize=2)  # examples of two epochs are made at a time, where they meet
    def order(epoch):
        return _order(seed, epoch, len(reader.case_ids), steps * batch_size)

    def example(number):
        epoch, place = divmod(int(number), steps * batch_size)
        case, rng = order(epoch)[place], np.random.default_rng([seed, epoch, 1 + place])
        drawn = augment.draw(
            rng,
            augmentation,
            manifest.crop_shape,
            shape,
            len(modalities),
            foreground_fraction,
            lambda: reader.read_tumour(case),
        )
        image, mask = augment_space.read_patch(reader, case, drawn, shape, len(modalities))
        augment_intensity.change(image, drawn)
        return image, mask, case

    numbers = share.of(first_epoch * steps + first_step, epochs * steps, batch_size)
    return _batches(numbers, example, reader, shape, len(modalities), share, batch_size)


def make_eval_dataset(
    manifest, folds, *, modalities, batch_size=1, share=ALL, cache="none", cache_dir=None
):
    """Makes batches of whole crops in which every case of `folds` counts exactly once.

    The last batch is filled up with copies of weight 0, so that every replica has its share.

    Args:
        manifest, folds, modalities, share, cache, cache_dir: as in `make_train_dataset`.
        batch_size: examples a batch, over all replicas.

    Returns:
        tf.data.Dataset of dicts as those of `make_train_dataset`, with `weight` float32 [B], 1
        or, for a copy, 0.
    """
    reader = RecordReader(manifest, folds, modalities, cache=cache, cache_dir=cache_dir)
    cases, shape = len(reader.case_ids), manifest.crop_shape

    def example(number):
        case = int(number) % cases
        whole = augment.Draw(origin=np.zeros(3, int))
        image, mask = augment_space.read_patch(reader, case, whole, shape, len(modalities))
        return image, mask, np.int32(case)

    numbers = share.of(0, -(-cases // batch_size), batch_size)
    dataset = _batches(numbers, example, reader, shape, len(modalities), share, batch_size)
    return dataset.map(
        lambda batch: {**batch, "weight": tf.cast(batch["number"] < cases, tf.float32)}
    )


def steps_per_epoch(manifest, folds, batch_size, patches_per_case=1):
    """Batches that hold every case of `folds` at least `patches_per_case` times."""
    return -(-len(manifest.case_ids(folds)) * patches_per_case // batch_size)


def patch_shape(crop_shape, patch_size):
    """(X, Y, Z) of the patches: `patch_size` an axis, at most the crop; the crop if it is 0."""
    return tuple(min(patch_size or extent, extent) for extent in crop_shape)


def _order(seed, epoch, cases, examples):
    """The case of each example of an epoch: one permutation of them all after the other."""
    rng = np.random.default_rng([seed, epoch, _ORDER])
    rounds = [rng.permutation(cases) for _ in range(-(-examples // cases))]
    return np.concatenate(rounds)[:examples].astype(np.int32)


def _batches(numbers, example, reader, shape, channels, share, batch_size):
    """The examples of `numbers`, made in parallel, given in order, cut into parts."""
    dtype = tf.as_dtype(reader.image_dtype)

    def made(number):
        image, mask, case = tf.numpy_function(
            example, [number], [dtype, tf.uint8, tf.int32], stateful=False
        )
        return {
            "image": tf.ensure_shape(image, [*shape, channels]),
            "mask": tf.ensure_shape(mask, shape),
            "case": tf.ensure_shape(case, []),
            "number": number,
        }

    readers = min(len(os.sched_getaffinity(0)), MOST_READERS)
    dataset = numbers.map(made, num_parallel_calls=readers, deterministic=True)
    # For the static shape: there is no remainder.
    dataset = dataset.batch(share.size(batch_size), drop_remainder=True)
    options = tf.data.Options()
    options.deterministic = True
    return dataset.prefetch(READ_AHEAD * share.replicas).with_options(options)
