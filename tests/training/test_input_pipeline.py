import numpy as np
import pytest

from brats_tfrecord.preprocess import masks
from brats_tfrecord.records import example
from brats_tfrecord.training import input_pipeline

MODALITIES = ("flair", "t1ce")


@pytest.fixture(scope="module")
def stored(dataset):
    """Every labelled record, decoded by the NumPy side of contract 1."""
    import tensorflow as tf

    serialized = tf.data.TFRecordDataset([str(p) for p in dataset.shard_paths((0, 1, 2))])
    cases = [example.decode(record.numpy(), dataset.recipe.image_dtype) for record in serialized]
    return {case.case_id: case for case in cases}


def train_batches(dataset, **options):
    options = {"modalities": MODALITIES, "patch_size": 8, "batch_size": 3, **options}
    made = input_pipeline.make_train_dataset(dataset, (1, 2), **options)
    return [(batch["image"].numpy(), batch["truth"].numpy()) for batch in made]


def same(first, second):
    return len(first) == len(second) and all(
        np.array_equal(a, b) for one, other in zip(first, second) for a, b in zip(one, other))


def test_training_batches_have_the_asked_shape_and_no_remainder(dataset):
    batches = train_batches(dataset, epochs=2)
    # Four cases in batches of three: two steps an epoch.
    assert input_pipeline.steps_per_epoch(dataset, (1, 2), 3) == 2
    assert len(batches) == 4
    for image, truth in batches:
        assert image.shape == (3, 8, 8, 8, 2) and image.dtype == np.float32
        assert truth.shape == (3, 8, 8, 8, 4) and truth.dtype == np.float32
        np.testing.assert_array_equal(truth.sum(-1), 1)


def test_data_are_a_function_of_seed_epoch_and_place(dataset):
    unbroken = train_batches(dataset, epochs=3, seed=5)
    assert same(unbroken, train_batches(dataset, epochs=3, seed=5))
    resumed = train_batches(dataset, first_epoch=1, epochs=3, seed=5)
    assert same(unbroken[2:], resumed)
    assert not same(unbroken[:2], unbroken[2:4])
    assert not same(unbroken, train_batches(dataset, epochs=3, seed=6))


def test_whole_crops_are_the_records_with_modalities_by_name_and_one_flip_for_both(
        dataset, stored):
    batches = train_batches(dataset, patch_size=0, batch_size=1, epochs=2)
    seen = []
    for image, truth in batches:
        for case_id, case in stored.items():
            expected = case.image[..., [3, 1]].astype(np.float32)  # flair, t1ce
            one_hot = masks.one_hot(case.classes, 4)
            for flips in np.ndindex(2, 2, 2):
                axes = [axis for axis, flipped in enumerate(flips) if flipped]
                if np.array_equal(np.flip(expected, axes), image[0]):
                    np.testing.assert_array_equal(np.flip(one_hot, axes), truth[0])
                    seen.append((case_id, flips))
    cases = [case_id for case_id, _ in seen]
    trained = dataset.case_ids((1, 2))
    assert sorted(cases[:4]) == sorted(cases[4:]) == trained
    assert len({flips for _, flips in seen[:4]}) > 1  # one draw an example, not an epoch


def test_a_patch_longer_than_an_axis_takes_it_whole(dataset):
    assert input_pipeline.patch_shape((20, 17, 16), 18) == (18, 17, 16)
    assert input_pipeline.patch_shape((20, 17, 16), 0) == (20, 17, 16)
    image, _ = train_batches(dataset, patch_size=18, batch_size=2)[0]
    assert image.shape == (2, 18, 17, 16, 2)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_evaluation_counts_every_case_exactly_once(dataset, stored, batch_size):
    folds = (0, 2)
    made = input_pipeline.make_eval_dataset(
        dataset, folds, modalities=("t2",), batch_size=batch_size)
    counted = []
    for batch in made:
        assert batch["image"].shape == (batch_size, 20, 17, 16, 1)
        for n, weight in enumerate(batch["weight"].numpy()):
            if weight:
                assert weight == 1
                case = stored[batch["case_id"][n].numpy().decode()]
                counted.append(case.case_id)
                np.testing.assert_array_equal(batch["image"][n, ..., 0], case.image[..., 2])
                np.testing.assert_array_equal(np.argmax(batch["truth"][n], -1), case.classes)
    assert sorted(counted) == dataset.case_ids(folds)


def test_an_uneven_evaluation_is_filled_up_with_copies_of_weight_zero(dataset):
    made = input_pipeline.make_eval_dataset(dataset, (0,), modalities=("t1",), batch_size=3)
    assert [batch["weight"].numpy().tolist() for batch in made] == [[1, 1, 0]]
