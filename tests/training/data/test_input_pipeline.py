import copy

import numpy as np
import pytest

from brats_tfrecord.preprocess import masks
from brats_tfrecord.records import example, tfrecord
from brats_tfrecord.training.data import augment, input_pipeline

MODALITIES = ("flair", "t1ce")


@pytest.fixture(scope="module")
def stored(dataset):
    """Every labelled record, decoded by the NumPy side of contract 1."""
    cases = [
        example.decode(record, dataset.recipe.image_dtype)
        for path in dataset.shard_paths((0, 1, 2))
        for record in tfrecord.read_records(path)
    ]
    return {case.case_id: case for case in cases}


def train_batches(dataset, **options):
    options = {"modalities": MODALITIES, "patch_size": 8, "batch_size": 3, **options}
    made = input_pipeline.make_train_dataset(dataset, (1, 2), **options)
    return [tuple(batch[name].numpy() for name in ("image", "mask", "case")) for batch in made]


def same(first, second):
    return len(first) == len(second) and all(
        np.array_equal(a, b) for one, other in zip(first, second) for a, b in zip(one, other)
    )


def test_training_batches_are_as_stored_of_the_asked_shape_and_without_remainder(dataset):
    batches = train_batches(dataset, epochs=2)
    # Four cases in batches of three: two steps an epoch.
    assert input_pipeline.steps_per_epoch(dataset, (1, 2), 3) == 2
    assert len(batches) == 4
    for image, mask, case in batches:
        assert image.shape == (3, 8, 8, 8, 2) and image.dtype == np.float16
        assert mask.shape == (3, 8, 8, 8) and mask.dtype == np.uint8
        assert case.shape == (3,)


@pytest.mark.parametrize("level", augment.LEVELS)
def test_data_are_a_function_of_seed_epoch_and_place(dataset, level):
    def batches(**options):
        return train_batches(
            dataset,
            augmentation=augment.LEVELS[level],
            patches_per_case=3,
            foreground_fraction=0.5,
            **{"epochs": 3, "seed": 5, **options},
        )

    unbroken = batches()  # four batches an epoch
    assert same(unbroken, batches())
    assert same(unbroken[4:], batches(first_epoch=1))
    assert same(unbroken[4 + 3 :], batches(first_epoch=1, first_step=3))
    assert not same(unbroken[:4], unbroken[4:8])
    assert not same(unbroken, batches(seed=6))


def test_every_example_of_every_epoch_has_a_seed_of_its_own(dataset, monkeypatch):
    draw, seen = augment.draw, []

    def spy(rng, *args):
        seen.append(copy.deepcopy(rng).random())
        return draw(rng, *args)

    monkeypatch.setattr(augment, "draw", spy)
    train_batches(dataset, epochs=3, patches_per_case=3)
    assert len(seen) == len(set(seen)) == 36


def test_every_case_gives_its_patches_mixed_among_the_others(dataset):
    assert input_pipeline.steps_per_epoch(dataset, (1, 2), 3, patches_per_case=5) == 7
    batches = train_batches(
        dataset, patches_per_case=5, epochs=2, augmentation=augment.LEVELS["none"]
    )
    for epoch in (batches[:7], batches[7:]):
        cases = np.concatenate([case for _, _, case in epoch])
        for first in range(0, 20, 4):  # each case once before any comes again
            assert sorted(cases[first : first + 4]) == [0, 1, 2, 3]
        patches = {image.tobytes() for batch, _, _ in epoch for image in batch}
        assert len(patches) == 21  # the 21st fills the last batch: another patch of a case


def test_whole_crops_are_the_records_with_modalities_by_name_and_one_flip_for_both(dataset, stored):
    batches = train_batches(dataset, patch_size=0, batch_size=1, epochs=2)
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
    assert len({flips for _, flips in seen[:4]}) > 1  # one draw an example, not an epoch


def test_patches_lie_on_tumour_as_often_as_asked(dataset):
    def on_tumour(fraction):
        batches = train_batches(
            dataset, patch_size=1, patches_per_case=25, batch_size=10, foreground_fraction=fraction
        )
        return np.mean([mask > 1 for _, mask, _ in batches])

    # The ball of tumour fills a sixth of the crop.
    assert on_tumour(0.0) < 0.3 and on_tumour(1.0) == 1


def test_light_changes_intensities_alone(dataset):
    flips, light = (
        train_batches(dataset, augmentation=augment.LEVELS[level], patch_size=0)
        for level in ("flips", "light")
    )
    for (image, mask, case), (changed, same_mask, same_case) in zip(flips, light):
        assert not np.array_equal(image, changed)
        np.testing.assert_array_equal(mask, same_mask)
        np.testing.assert_array_equal(case, same_case)


def test_a_patch_longer_than_an_axis_takes_it_whole(dataset):
    assert input_pipeline.patch_shape((20, 17, 16), 18) == (18, 17, 16)
    assert input_pipeline.patch_shape((20, 17, 16), 0) == (20, 17, 16)
    image, *_ = train_batches(dataset, patch_size=18, batch_size=2)[0]
    assert image.shape == (2, 18, 17, 16, 2)


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_cache_changes_nothing_that_is_read(dataset, tmp_path, cache):
    cached = {"cache": cache, "cache_dir": tmp_path if cache == "disk" else None}
    options = {"epochs": 2, "foreground_fraction": 0.5}
    assert same(train_batches(dataset, **options), train_batches(dataset, **options, **cached))


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_evaluation_counts_every_case_exactly_once(dataset, stored, batch_size):
    folds = (0, 2)
    made = input_pipeline.make_eval_dataset(
        dataset, folds, modalities=("t2",), batch_size=batch_size
    )
    counted = []
    for batch in made:
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


def test_an_uneven_evaluation_is_filled_up_with_copies_of_weight_zero(dataset):
    made = input_pipeline.make_eval_dataset(dataset, (0,), modalities=("t1",), batch_size=3)
    assert [batch["weight"].numpy().tolist() for batch in made] == [[1, 1, 0]]
