"""Reads records into batches: one function for training, one for evaluation.

Memory is bounded whatever the size of the cohort: training holds `SHUFFLE_RECORDS` serialised
records (27 MB each at 144x144x144), a few of each shard being read, one decoded record for each
core, and the batches prefetched: 1 to 1.5 GB in all, measured at 144x144x144 with two cores.
"""

import tensorflow as tf

from brats_tfrecord.records import graph
from brats_tfrecord.training import augment

SHUFFLE_RECORDS = 8
"""Records mixed in memory; the order of shards and their interleaving do the rest."""

READ_SHARDS = 4
"""Shards read side by side, one record of each in turn."""


def make_train_dataset(
    manifest,
    folds,
    *,
    modalities,
    patch_size=0,
    foreground_fraction=0.0,
    batch_size=2,
    seed=0,
    first_epoch=0,
    epochs=1,
):
    """Makes the batches of epochs `first_epoch` … `epochs` - 1, one epoch after the other.

    What is in a batch depends on (seed, epoch, place in the epoch) alone: a run that starts at
    `first_epoch` sees what an unbroken run would have seen from there. An epoch has
    `steps_per_epoch` batches; it takes every case once, and fills its last batch with other
    patches of its first cases.

    Args:
        manifest: `records.manifest.Manifest`.
        folds: folds to train on.
        modalities: names of the image's channels to give, in that order.
        patch_size: edge in voxels of the random patches; a shorter axis of the crop is taken
            whole. 0 gives whole crops.
        foreground_fraction: share of the patches that are centred on tumour.
        batch_size: examples a batch.
        seed: int.
        first_epoch, epochs: counted from 0.

    Returns:
        tf.data.Dataset of dicts: `image` float32 [B, X, Y, Z, C] and `truth` float32 one-hot
        [B, X, Y, Z, K].
    """
    channels = _channels(manifest, modalities)
    paths = [str(path) for path in manifest.shard_paths(folds)]
    examples = steps_per_epoch(manifest, folds, batch_size) * batch_size
    shape = patch_shape(manifest.crop_shape, patch_size)

    def epoch_records(epoch):
        epoch_seed = _fold_in(_root_seed(seed), epoch)
        # File names are shuffled rather than records: they cost nothing, volumes fill the host.
        ordered = tf.random.experimental.stateless_shuffle(tf.constant(paths), epoch_seed)
        dataset = tf.data.Dataset.from_tensor_slices(ordered)
        # Interleaving mixes the shards; the buffer then mixes neighbours. Both work on
        # serialised records, and nothing is decoded before it is needed.
        dataset = dataset.interleave(
            tf.data.TFRecordDataset,
            cycle_length=min(READ_SHARDS, len(paths)),
            num_parallel_calls=min(READ_SHARDS, len(paths)),
            deterministic=True,
        )
        dataset = dataset.shuffle(
            SHUFFLE_RECORDS, seed=epoch_seed[0], reshuffle_each_iteration=False
        )
        dataset = dataset.repeat().take(examples).enumerate()
        return dataset.map(lambda index, record: (_fold_in(epoch_seed, index), record))

    def patch_of(example_seed, record):
        found = _parse(record, manifest)
        drawn = augment.draw(example_seed, found["mask"], shape, foreground_fraction)
        # Cut before anything is picked, flipped or cast: a 64-voxel patch is a twelfth of a crop.
        image = augment.cut(found["image"], drawn, shape)
        packed = augment.cut(found["mask"], drawn, shape)
        image = augment.flip(tf.gather(image, channels, axis=-1), drawn)
        return _to_network(image, augment.flip(packed, drawn), manifest)

    dataset = tf.data.Dataset.range(first_epoch, epochs).flat_map(epoch_records)
    dataset = dataset.map(patch_of, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size, drop_remainder=True)  # for the static shape; none is left
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(_options())


def make_eval_dataset(manifest, folds, *, modalities, batch_size=1):
    """Makes batches of whole crops in which every case of `folds` counts exactly once.

    The last batch is filled up with copies of weight 0, so that every replica has its share.

    Args:
        manifest, folds, modalities: as in `make_train_dataset`.
        batch_size: examples a batch.

    Returns:
        tf.data.Dataset of dicts: `case_id` string [B], `image` float32 [B, X, Y, Z, C], `truth`
        float32 one-hot [B, X, Y, Z, K], `weight` float32 [B], 1 or, for a copy, 0.
    """
    channels = _channels(manifest, modalities)
    cases = len(manifest.case_ids(folds))
    padded = -(-cases // batch_size) * batch_size

    def whole(index, record):
        found = _parse(record, manifest)
        image = tf.gather(found["image"], channels, axis=-1)
        return {
            "case_id": found["case_id"],
            "weight": tf.cast(index < cases, tf.float32),
            **_to_network(image, found["mask"], manifest),
        }

    paths = [str(path) for path in manifest.shard_paths(folds)]
    dataset = tf.data.TFRecordDataset(paths).repeat().take(padded).enumerate()
    dataset = dataset.map(whole, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size, drop_remainder=True)
    return dataset.prefetch(1).with_options(_options())


def steps_per_epoch(manifest, folds, batch_size):
    """Batches that hold every case of `folds` at least once."""
    return -(-len(manifest.case_ids(folds)) // batch_size)


def patch_shape(crop_shape, patch_size):
    """(X, Y, Z) of the patches: `patch_size` an axis, at most the crop; the crop if it is 0."""
    return tuple(min(patch_size or extent, extent) for extent in crop_shape)


def _parse(record, manifest):
    found = graph.parse(record, manifest.recipe.image_dtype)
    shape = manifest.crop_shape
    return {
        "case_id": found["case_id"],
        "image": tf.ensure_shape(found["image"], [*shape, len(manifest.modalities)]),
        "mask": tf.ensure_shape(found["mask"], shape),
    }


def _to_network(image, packed, manifest):
    """Casts and one-hots, last of all: until here an example is a fifth of the size."""
    truth = graph.unpack(packed, manifest.label_scheme.classes, tf.float32)
    return {"image": tf.cast(image, tf.float32), "truth": truth}


def _channels(manifest, modalities):
    """Places of the named modalities among the record's channels."""
    return [manifest.modalities.index(name) for name in modalities]


def _root_seed(seed):
    return tf.constant([seed, 0], tf.int64)


def _fold_in(seed, number):
    """A seed of its own for each number: int64 [2]."""
    return tf.cast(tf.random.experimental.stateless_fold_in(seed, number), tf.int64)


def _options():
    options = tf.data.Options()
    options.deterministic = True
    # One process feeds all replicas: there is nothing to shard, and nothing to warn about.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
