import copy
import dataclasses

import numpy as np
import pytest

from brats_tfrecord import brain
from brats_tfrecord.preprocess import masks
from brats_tfrecord.records import example, tfrecord
from brats_tfrecord.training.data import augment, input_pipeline
from brats_tfrecord.training.data.input_pipeline import BatchShare, Patches
from brats_tfrecord.training.data.record_reader import RecordReader

MODALITIES = ("flair", "t1ce")


@pytest.fixture(scope="module")
def stored(dataset):
    """Every labelled record, decoded with NumPy: case id -> case."""
    cases = [
        example.decode(record, dataset.recipe.image_dtype)
        for path in dataset.shard_paths((0, 1, 2))
        for record in tfrecord.read_records(path)
    ]
    return {case.case_id: case for case in cases}


SMALL = Patches(8)


def train_batches(dataset, patches=SMALL, **options):
    """Every batch of folds 1 and 2, which have four cases, as (image, mask, case)."""
    options = {"modalities": MODALITIES, "batch_size": 3, **options}
    batches = input_pipeline.make_train_dataset(dataset, (1, 2), patches=patches, **options)
    return [tuple(batch[name].numpy() for name in ("image", "mask", "case")) for batch in batches]


def are_equal(first, second):
    """Whether two lists of batches hold equal arrays."""
    return len(first) == len(second) and all(
        np.array_equal(a, b)
        for first_batch, second_batch in zip(first, second)
        for a, b in zip(first_batch, second_batch)
    )


def test_training_batches_have_the_patch_shape_and_no_remainder(dataset):
    batches = train_batches(dataset, epochs=2)
    # Four cases in batches of three: two steps an epoch.
    assert input_pipeline.steps_per_epoch(dataset, (1, 2), 3) == 2
    assert len(batches) == 4
    for image, mask, case in batches:
        assert image.shape == (3, 8, 8, 8, 2) and image.dtype == np.float16
        assert mask.shape == (3, 8, 8, 8) and mask.dtype == np.uint8
        assert case.shape == (3,)


@pytest.mark.parametrize("level", augment.LEVELS)
def test_batches_are_a_function_of_seed_epoch_and_position(dataset, level):
    def batches(**options):
        patches = Patches(8, 3, 0.5, augment.LEVELS[level])
        return train_batches(dataset, patches, **{"epochs": 3, "seed": 5, **options})

    unbroken = batches()  # four batches an epoch
    assert are_equal(unbroken, batches())
    assert are_equal(unbroken[4:], batches(first_epoch=1))
    assert are_equal(unbroken[4 + 3 :], batches(first_epoch=1, first_step=3))
    assert not are_equal(unbroken[:4], unbroken[4:8])
    assert not are_equal(unbroken, batches(seed=6))


def test_every_example_of_every_epoch_has_a_seed_of_its_own(dataset, monkeypatch):
    draw_parameters, first_numbers = augment.draw_parameters, []

    def spy(rng, *args):
        first_numbers.append(copy.deepcopy(rng).random())
        return draw_parameters(rng, *args)

    monkeypatch.setattr(augment, "draw_parameters", spy)
    train_batches(dataset, Patches(8, per_case=3), epochs=3)
    assert len(first_numbers) == len(set(first_numbers)) == 36


def test_every_case_is_taken_once_before_any_is_taken_again(dataset):
    assert input_pipeline.steps_per_epoch(dataset, (1, 2), 3, patches_per_case=5) == 7
    patches = Patches(8, per_case=5, augmentation=augment.LEVELS["none"])
    batches = train_batches(dataset, patches, epochs=2)
    for epoch in (batches[:7], batches[7:]):
        cases = np.concatenate([case for _, _, case in epoch])
        for first in range(0, 20, 4):
            assert sorted(cases[first : first + 4]) == [0, 1, 2, 3]
        images = {image.tobytes() for batch, _, _ in epoch for image in batch}
        assert len(images) == 21  # the 21st, which fills the last batch, is a new patch too


def test_whole_crops_are_the_stored_cases_with_image_and_mask_flipped_alike(dataset, stored):
    batches = train_batches(dataset, Patches(), batch_size=1, epochs=2)
    trained, seen = dataset.case_ids((1, 2)), []
    for image, packed, case in batches:
        case_id = trained[case[0]]
        expected = stored[case_id].image[..., [3, 1]]  # flair, t1ce
        for flips in np.ndindex(2, 2, 2):
            axes = [axis for axis, flipped in enumerate(flips) if flipped]
            if np.array_equal(np.flip(expected, axes), image[0]):
                np.testing.assert_array_equal(
                    np.flip(stored[case_id].classes, axes), masks.unpack_classes(packed[0])
                )
                seen.append((case_id, flips))
    cases = [case_id for case_id, _ in seen]
    assert sorted(cases[:4]) == sorted(cases[4:]) == trained
    assert len({flips for _, flips in seen[:4]}) > 1  # per example, not per epoch


def test_tensorflow_takes_the_patches_over_without_a_copy(dataset, monkeypatch):
    make_array, addresses = input_pipeline._aligned_array, []

    def spy(*arguments):
        array = make_array(*arguments)
        addresses.append(array.ctypes.data)
        return array

    monkeypatch.setattr(input_pipeline, "_aligned_array", spy)
    for batch in input_pipeline.make_train_dataset(
        dataset, (1, 2), modalities=MODALITIES, patches=SMALL, batch_size=2
    ):
        for name in ("image", "mask"):
            assert np.asarray(memoryview(batch[name])).ctypes.data in addresses


def test_patches_are_centred_on_tumour_as_often_as_requested(dataset):
    def on_tumour(fraction):
        batches = train_batches(dataset, Patches(1, 25, fraction), batch_size=10)
        return np.mean([mask > 1 for _, mask, _ in batches])

    # The ball of tumour fills a sixth of the crop.
    assert on_tumour(0.0) < 0.3 and on_tumour(1.0) == 1


def test_light_adds_only_changes_of_intensity_to_flips(dataset):
    flips, light = (
        train_batches(dataset, Patches(augmentation=augment.LEVELS[level]))
        for level in ("flips", "light")
    )
    for (image, mask, case), (changed, same_mask, same_case) in zip(flips, light):
        assert not np.array_equal(image, changed)
        np.testing.assert_array_equal(mask, same_mask)
        np.testing.assert_array_equal(case, same_case)


@pytest.mark.parametrize("level", augment.LEVELS)
def test_the_brain_channel_adds_a_mark_to_the_masks_and_changes_nothing_else(
    stripped_dataset, level
):
    patches = Patches(8, 3, 0.5, augment.LEVELS[level])
    plain = train_batches(stripped_dataset, patches, epochs=2)
    marked = train_batches(stripped_dataset, patches, epochs=2, brain_channel=True)
    shares = []
    for (image, mask, case), (same_image, marked_mask, same_case) in zip(plain, marked):
        np.testing.assert_array_equal(image, same_image)
        np.testing.assert_array_equal(case, same_case)
        assert mask.max() < brain.MARK
        np.testing.assert_array_equal(marked_mask & ~np.uint8(brain.MARK), mask)
        assert (marked_mask[mask > 1] > brain.MARK).mean() > 0.9  # the tumour lies in the brain
        shares.append((marked_mask >= brain.MARK).mean())
    assert 0.2 < np.mean(shares) < 0.95


@pytest.mark.parametrize("make", ["train", "eval"])
def test_the_marked_voxels_are_those_of_the_skull_stripped_head(
    stripped_dataset, stripped_case, make
):
    """Whole crops: a voxel is brain if FLAIR or T1ce was not 0 before the normalisation."""
    options = {"modalities": MODALITIES, "brain_channel": True}
    if make == "train":
        patches = Patches(augmentation=augment.LEVELS["none"])
        batches = input_pipeline.make_train_dataset(
            stripped_dataset, (1, 2), patches=patches, **options
        )
    else:
        batches = input_pipeline.make_eval_dataset(stripped_dataset, (1, 2), **options)
    for batch in batches:
        for mask, case in zip(batch["mask"].numpy(), batch["case"].numpy()):
            raw = stripped_case(stripped_dataset.case_ids((1, 2))[case], labelled=True)
            expected = (raw.volumes[..., [3, 1]] != 0).any(axis=-1)
            assert 0 < expected.sum() < expected.size
            np.testing.assert_array_equal(mask >= brain.MARK, expected)


def test_the_background_of_a_case_is_read_once(stripped_dataset, monkeypatch):
    read, cases = RecordReader.read_background, []

    def spy(reader, case):
        cases.append(case)
        return read(reader, case)

    monkeypatch.setattr(RecordReader, "read_background", spy)
    train_batches(stripped_dataset, Patches(8, 3), epochs=2)
    assert cases == []
    train_batches(stripped_dataset, Patches(8, 3), epochs=2, brain_channel=True)
    assert set(cases) == {0, 1, 2, 3} and len(cases) < 8  # threads may ask at the same time


def test_dropped_modalities_are_0_and_the_others_as_without(dataset):
    light = augment.LEVELS["light"]
    dropping = dataclasses.replace(light, channel_dropout=0.5)
    options = {"modalities": ("flair", "t1ce", "t2"), "batch_size": 2, "brain_channel": True}
    plain = train_batches(dataset, Patches(8, 5, 0.5, light), epochs=3, **options)
    dropped = train_batches(dataset, Patches(8, 5, 0.5, dropping), epochs=3, **options)
    kept = []
    for (images, masks_, _), (others, same_masks, _) in zip(plain, dropped):
        np.testing.assert_array_equal(masks_, same_masks)
        for image, other in zip(images, others):
            kept.append([bool(other[..., channel].any()) for channel in range(3)])
            np.testing.assert_array_equal(other, np.where(kept[-1], image, np.float16(0)))
    # 60 patches: half of them lose one modality or two, none loses all.
    counts = np.sum(kept, axis=1)
    assert set(counts) == {1, 2, 3} and 0.3 < np.mean(counts < 3) < 0.7


def test_a_patch_longer_than_an_axis_takes_it_whole(dataset):
    assert Patches(18).shape((20, 17, 16)) == (18, 17, 16)
    assert Patches(0).shape((20, 17, 16)) == (20, 17, 16)
    image, *_ = train_batches(dataset, Patches(18), batch_size=2)[0]
    assert image.shape == (2, 18, 17, 16, 2)


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_batches_are_the_same_with_a_cache(dataset, tmp_path, cache):
    cache_dir = tmp_path if cache == "disk" else None
    patches = Patches(8, foreground_fraction=0.5)
    plain = train_batches(dataset, patches, epochs=2)
    cached = train_batches(dataset, patches, epochs=2, cache=cache, cache_dir=cache_dir)
    assert are_equal(plain, cached)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_evaluation_counts_every_case_exactly_once(dataset, stored, batch_size):
    folds = (0, 2)
    batches = input_pipeline.make_eval_dataset(
        dataset, folds, modalities=("t2",), batch_size=batch_size
    )
    counted = []
    for batch in batches:
        assert batch["image"].shape == (batch_size, 20, 17, 16, 1)
        for n, weight in enumerate(batch["weight"].numpy()):
            if weight:
                assert weight == 1
                case = stored[dataset.case_ids(folds)[batch["case"][n]]]
                counted.append(case.case_id)
                np.testing.assert_array_equal(batch["image"][n, ..., 0], case.image[..., 2])
                np.testing.assert_array_equal(
                    masks.unpack_classes(batch["mask"][n].numpy()), case.classes
                )
    assert sorted(counted) == dataset.case_ids(folds)


def test_an_uneven_evaluation_is_padded_with_copies_of_weight_zero(dataset):
    batches = input_pipeline.make_eval_dataset(dataset, (0,), modalities=("t1",), batch_size=3)
    assert [batch["weight"].numpy().tolist() for batch in batches] == [[1, 1, 0]]


def test_processes_and_replicas_share_every_batch(dataset):
    """Two processes of two replicas each: every example once, in order of the ranks."""
    numbers = []
    for worker in range(2):
        batches = input_pipeline.make_train_dataset(
            dataset,
            (1, 2),
            modalities=MODALITIES,
            patches=SMALL,
            batch_size=4,
            epochs=2,
            share=BatchShare(worker, workers=2, replicas=2),
        )
        numbers.append([batch["number"].numpy().tolist() for batch in batches])
    assert numbers == [[[0], [1], [4], [5]], [[2], [3], [6], [7]]]
