import dataclasses
import shutil

import numpy as np
import pytest

from brats_tfrecord.errors import InputError
from brats_tfrecord.records import example, manifest, tfrecord
from brats_tfrecord.training.data.record_reader import RecordReader

FOLDS = (0, 1, 2)


@pytest.fixture(scope="module")
def stored(dataset):
    cases = [
        example.decode(record, "float16")
        for path in dataset.shard_paths(FOLDS)
        for record in tfrecord.read_records(path)
    ]
    return {case.case_id: case for case in cases}


@pytest.fixture
def copy(dataset, tmp_path):
    shutil.copytree(dataset.root, tmp_path / "copy")
    return manifest.load(tmp_path / "copy")


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_a_box_is_that_part_of_the_stored_case(dataset, stored, tmp_path, cache):
    reader = RecordReader(dataset, FOLDS, ("flair", "t1", "t2"), cache=cache, cache_dir=tmp_path)
    assert reader.case_ids == dataset.case_ids(FOLDS)
    for case, case_id in enumerate(reader.case_ids):
        image, mask = np.zeros((4, 3, 9, 3), np.float16), np.zeros((4, 3, 9), np.uint8)
        reader.read_image(case, (16, 14, 7), image)  # up to the last voxel of each axis
        reader.read_mask(case, (2, 8, 3), mask)
        np.testing.assert_array_equal(
            image, stored[case_id].image[16:20, 14:17, 7:16][..., [3, 0, 2]]
        )
        np.testing.assert_array_equal(
            mask, np.left_shift(1, stored[case_id].classes[2:6, 8:11, 3:12])
        )
        np.testing.assert_array_equal(
            reader.read_tumour(case), np.flatnonzero(stored[case_id].classes)
        )


def test_a_view_is_filled_through(dataset, stored):
    reader = RecordReader(dataset, FOLDS, ("t1",))
    patch = np.zeros((5, 4, 3, 1), np.float16)
    reader.read_image(0, (1, 2, 3), np.flip(np.rot90(patch, 1, (0, 2)), 1))
    expected = stored[reader.case_ids[0]].image[1:4, 2:6, 3:8, :1]
    np.testing.assert_array_equal(np.rot90(np.flip(expected, 1), -1, (0, 2)), patch)


def test_memory_needs_the_files_no_more(copy):
    reader = RecordReader(copy, (1,), ("t1",), cache="memory")
    first, again = np.zeros((2, 20, 17, 16, 1), np.float16)
    reader.read_image(0, (0, 0, 0), first)
    for path in copy.shard_paths((1,)):
        path.unlink()
    reader.read_image(0, (0, 0, 0), again)
    assert first.any() and np.array_equal(first, again)


def test_copies_on_disk_are_made_once_and_a_broken_one_again(copy, tmp_path):
    def read():
        reader = RecordReader(copy, (1,), ("t1",), cache="disk", cache_dir=tmp_path / "cache")
        image = np.zeros((20, 17, 16, 1), np.float16)
        reader.read_image(0, (0, 0, 0), image)
        return image

    first = read()
    [copied] = (tmp_path / "cache").rglob("*.tfrecord")
    made = copied.stat().st_mtime_ns
    assert np.array_equal(read(), first) and copied.stat().st_mtime_ns == made
    copied.write_bytes(copied.read_bytes()[:1000])
    assert np.array_equal(read(), first)
    assert copied.read_bytes() == copy.shard_paths((1,))[0].read_bytes()


def test_another_dataset_has_copies_of_its_own(dataset, other_dataset, tmp_path):
    for one in (dataset, other_dataset):
        reader = RecordReader(one, (1,), ("t1",), cache="disk", cache_dir=tmp_path)
        reader.read_tumour(0)
    assert len(list(tmp_path.iterdir())) == 2


def damage(path, offset, byte):
    data = bytearray(path.read_bytes())
    data[offset] = byte
    path.write_bytes(data)


@pytest.mark.parametrize(
    "offset, byte, message",
    [
        (0, 1, "length does not fit its checksum"),
        (12, 0, "not a record of ours"),
        (13, 1, "leaves its record|not a record of ours|values to unpack"),
    ],
)
def test_a_shard_that_is_not_the_manifests_is_named_at_the_start(copy, offset, byte, message):
    [path] = copy.shard_paths((1,))
    damage(path, offset, byte)
    with pytest.raises(InputError, match=f"{path.name}: .*({message}).*--verify"):
        RecordReader(copy, FOLDS, ("t1",))


def test_shards_that_changed_places_or_a_record_too_many_are_named(copy):
    first, second = copy.shard_paths((0, 1))
    data = first.read_bytes()
    shutil.copy(second, first)
    with pytest.raises(InputError, match="case case1 where case0 is expected|where case"):
        RecordReader(copy, FOLDS, ("t1",))
    first.write_bytes(data + data)
    with pytest.raises(InputError, match=first.name):
        RecordReader(copy, FOLDS, ("t1",))


def test_other_image_sizes_than_the_recipes_are_named(copy):
    recipe = dataclasses.replace(copy.recipe, image_dtype="float32")
    with pytest.raises(InputError, match="43520 bytes of image, expected 87040"):
        RecordReader(dataclasses.replace(copy, recipe=recipe), FOLDS, ("t1",))


def test_a_wrong_byte_within_a_record_is_found_when_its_case_is_first_read(copy):
    reader = RecordReader(copy, (1,), ("t1",))
    [path] = copy.shard_paths((1,))
    damage(path, 20_000, 255)
    with pytest.raises(InputError, match=f"{path.name}: case.: its data do not fit their checksum"):
        for case in range(2):
            reader.read_mask(case, (0, 0, 0), np.zeros((1, 1, 1), np.uint8))


def test_a_file_that_ends_too_early_is_named_when_it_is_read(copy):
    reader = RecordReader(copy, (1,), ("t1",))
    [path] = copy.shard_paths((1,))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=f"{path.name}: ends at byte 1000"):
        reader.read_image(0, (0, 0, 0), np.zeros((20, 17, 16, 1), np.float16))
