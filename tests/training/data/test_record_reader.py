import dataclasses
import errno
import os
import resource
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from brats_tfrecord import spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.records import example, manifest, tfrecord
from brats_tfrecord.training.data import record_reader
from brats_tfrecord.training.data.record_reader import RecordReader

FOLDS = (0, 1, 2)
LINE_BYTES = 16 * 4 * 2
"""Bytes of one line along Z of the images; planes of X have 17 of them."""
PLANE_BYTES = 17 * LINE_BYTES


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
@pytest.mark.parametrize("planes", [0, 3, 100])
def test_a_box_is_that_part_of_the_stored_case(
    dataset, stored, tmp_path, monkeypatch, planes, cache
):
    monkeypatch.setattr(record_reader, "READ_BYTES", planes * PLANE_BYTES)
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
        groups = reader.read_classes(case)
        assert len(groups) == 3
        for group, class_id in zip(groups, (1, 2, 3)):
            expected = np.flatnonzero(stored[case_id].classes == class_id)
            np.testing.assert_array_equal(group, expected)


def test_classes_that_a_case_lacks_have_no_group(dataset, monkeypatch):
    reader = RecordReader(dataset, FOLDS, ("t1",))
    packed = np.ones(dataset.crop_shape, np.uint8)  # background
    monkeypatch.setattr(reader, "_read_packed", lambda case: packed)
    assert reader.read_classes(0) == [] and reader.read_tumour(0).size == 0
    packed[3, 2, 1], packed[0, 0, 5] = 1 << 4, 1 << 1  # a cavity and a necrosis
    necrosis, cavity = reader.read_classes(0)
    assert (necrosis.tolist(), cavity.tolist()) == ([5], [(3 * 17 + 2) * 16 + 1])


@pytest.mark.parametrize("modalities", [("flair", "t1ce"), spec.MODALITIES])
def test_the_background_is_the_fourth_smallest_of_the_corners(dataset, stored, modalities):
    reader = RecordReader(dataset, FOLDS, modalities)
    channels = [spec.MODALITIES.index(name) for name in modalities]
    for case, case_id in enumerate(reader.case_ids):
        corners = stored[case_id].image[::19, ::16, ::15, channels]
        assert corners.shape[:3] == (2, 2, 2)
        expected = np.sort(corners.reshape(8, -1), axis=0)[3]
        background = reader.read_background(case)
        assert background.dtype == np.float16
        np.testing.assert_array_equal(background, expected)


@pytest.mark.parametrize("modalities", [("t1",), spec.MODALITIES])
def test_a_view_is_filled_in_its_own_orientation(dataset, stored, modalities):
    reader = RecordReader(dataset, FOLDS, modalities)
    patch = np.zeros((5, 4, 3, len(modalities)), np.float16)
    reader.read_image(0, (1, 2, 3), np.flip(np.rot90(patch, 1, (0, 2)), 1))
    expected = stored[reader.case_ids[0]].image[1:4, 2:6, 3:8, : len(modalities)]
    np.testing.assert_array_equal(np.rot90(np.flip(expected, 1), -1, (0, 2)), patch)


def test_a_box_takes_one_read_for_several_planes(dataset, monkeypatch):
    reader, sizes, preadv = RecordReader(dataset, FOLDS, ("t1",)), [], os.preadv
    read_all(reader)  # checks the records

    def spy(descriptor, buffers, offset):
        sizes.append(sum(map(len, buffers)))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", spy)
    monkeypatch.setattr(record_reader, "READ_BYTES", 3 * PLANE_BYTES)
    reader.read_image(0, (0, 0, 0), np.zeros((20, 17, 16, 1), np.float16))
    assert sizes == [3 * PLANE_BYTES] * 6 + [2 * PLANE_BYTES]
    sizes.clear()
    monkeypatch.setattr(record_reader, "SKIP_BYTES", 16 * LINE_BYTES)
    reader.read_image(0, (0, 0, 0), np.zeros((6, 1, 16, 1), np.float16))
    assert sizes == [2 * PLANE_BYTES + LINE_BYTES] * 2
    monkeypatch.setattr(record_reader, "SKIP_BYTES", 16 * LINE_BYTES - 1)
    reader.read_image(0, (0, 0, 0), np.zeros((6, 1, 16, 1), np.float16))
    assert sizes[2:] == [LINE_BYTES] * 6


def open_files(folder):
    """The number of files in a folder that this process has open."""
    links = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(Path(link).parent == folder for link in links)


def test_files_stay_open_as_far_as_the_limit_of_the_system_allows(copy, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (16, 16))
    reader = RecordReader(copy, FOLDS, ("t1",))
    assert len(copy.shard_paths(FOLDS)) > 2
    read_all(reader)
    assert open_files(copy.root) == 2


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_slow_read_into_a_cache_delays_only_those_who_need_it(copy, tmp_path, monkeypatch, cache):
    [slow], [other] = (copy.shard_paths((fold,)) for fold in (0, 1))
    started, finish, paths = threading.Event(), threading.Event(), []

    def delay(function, path_of):
        def delayed(*arguments):
            paths.append(path_of(arguments))
            if paths[-1] == slow:
                started.set()
                assert finish.wait(30)
            return function(*arguments)

        return delayed

    if cache == "disk":
        monkeypatch.setattr(shutil, "copyfile", delay(shutil.copyfile, lambda a: a[0]))
    else:
        read = record_reader._OpenFile.read
        monkeypatch.setattr(record_reader._OpenFile, "read", delay(read, lambda a: a[0]._path))
    reader = RecordReader(copy, FOLDS, ("t1",), cache=cache, cache_dir=tmp_path / "cache")
    slow_case, other_case = (reader.case_ids.index(copy.case_ids((fold,))[0]) for fold in (0, 1))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(reader.read_tumour, slow_case) for _ in range(2)]
        try:
            assert started.wait(30)
            assert reader.read_tumour(other_case).size
            assert not any(future.done() for future in waiting)
        finally:
            finish.set()
        assert all(future.result().size for future in waiting)
    assert sorted(paths) == sorted([slow, other])


def test_the_memory_cache_no_longer_needs_the_files(copy):
    reader = RecordReader(copy, (1,), ("t1",), cache="memory")
    first, again = np.zeros((2, 20, 17, 16, 1), np.float16)
    reader.read_image(0, (0, 0, 0), first)
    for path in copy.shard_paths((1,)):
        path.unlink()
    reader.read_image(0, (0, 0, 0), again)
    assert first.any() and np.array_equal(first, again)


def test_the_disk_cache_copies_a_shard_once_and_replaces_a_truncated_copy(copy, tmp_path):
    def read():
        reader = RecordReader(copy, (1,), ("t1",), cache="disk", cache_dir=tmp_path / "cache")
        image = np.zeros((20, 17, 16, 1), np.float16)
        reader.read_image(0, (0, 0, 0), image)
        return image

    first = read()
    [copied] = (tmp_path / "cache").rglob("*.tfrecord")
    modified = copied.stat().st_mtime_ns
    assert np.array_equal(read(), first) and copied.stat().st_mtime_ns == modified
    copied.write_bytes(copied.read_bytes()[:1000])
    assert np.array_equal(read(), first)
    assert copied.read_bytes() == copy.shard_paths((1,))[0].read_bytes()


def test_each_dataset_has_its_own_copies(dataset, other_dataset, tmp_path):
    for manifest_ in (dataset, other_dataset):
        reader = RecordReader(manifest_, (1,), ("t1",), cache="disk", cache_dir=tmp_path)
        reader.read_tumour(0)
    assert len(list(tmp_path.iterdir())) == 2


def damage(path, offset, byte):
    data = bytearray(path.read_bytes())
    data[offset] = byte
    path.write_bytes(data)


def read_all(reader):
    for case in range(len(reader.case_ids)):
        reader.read_mask(case, (0, 0, 0), np.zeros((1, 1, 1), np.uint8))


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
@pytest.mark.parametrize(
    "offset, byte, message",
    [
        (0, 1, "its length does not fit its checksum"),
        (12, 0, "its data do not fit their checksum"),
        (20_000, 255, "its data do not fit their checksum"),
    ],
)
def test_a_damaged_record_is_named_when_its_case_is_first_read(
    copy, tmp_path, offset, byte, message, cache
):
    [path] = copy.shard_paths((1,))
    damage(path, offset, byte)
    reader = RecordReader(copy, (1,), ("t1",), cache=cache, cache_dir=tmp_path / "cache")
    with pytest.raises(InputError, match=f"{path.name}: case.: {message}; .*--verify"):
        read_all(reader)


def test_swapped_shards_are_named(copy):
    first, second = copy.shard_paths((0, 1))
    shutil.copy(second, first)
    with pytest.raises(InputError, match=f"{first.name}: case.: .*--verify"):
        read_all(RecordReader(copy, FOLDS, ("t1",)))


def with_row(manifest_, **changes):
    """The manifest with other offsets of its first case, which is in fold 0."""
    first, *others = manifest_.cases
    return dataclasses.replace(manifest_, cases=(dataclasses.replace(first, **changes), *others))


def test_the_record_of_another_case_is_named(copy):
    first, second = (row for row in copy.cases if row.fold == 0)
    wrong = with_row(copy, record_offset=second.record_offset)
    with pytest.raises(InputError, match=f"{first.case_id}: the record at its offset is of anoth"):
        read_all(RecordReader(wrong, FOLDS, ("t1",)))


@pytest.mark.parametrize(
    "field, offset, message",
    [
        ("record_offset", 0, "does not fit in the shard"),
        ("record_offset", 10**9, "does not fit in the shard"),
        ("image_offset", -1, "of image at byte -1 do not fit in its record"),
        ("mask_offset", 10**9, "of mask at byte 1000000000 do not fit in its record"),
    ],
)
def test_offsets_outside_of_shard_or_record_are_named_at_the_start(copy, field, offset, message):
    first = copy.cases[0]
    with pytest.raises(InputError, match=f"{first.case_id}: .*{message}.*--verify"):
        RecordReader(with_row(copy, **{field: offset}), FOLDS, ("t1",))


@pytest.mark.parametrize("name", ["image", "mask"])
def test_a_wrong_offset_of_the_voxels_is_named_when_the_case_is_first_read(copy, name):
    first = copy.cases[0]
    offset = getattr(first, f"{name}_offset") - 1
    reader = RecordReader(with_row(copy, **{f"{name}_offset": offset}), FOLDS, ("t1",))
    with pytest.raises(InputError, match=f"{first.case_id}: its {name} is not at byte {offset}"):
        read_all(reader)


def test_another_image_size_than_the_recipe_is_named(copy):
    recipe = dataclasses.replace(copy.recipe, image_dtype="float32")
    with pytest.raises(InputError, match="87040 bytes of image at byte .* do not fit in its recor"):
        RecordReader(dataclasses.replace(copy, recipe=recipe), FOLDS, ("t1",))


def test_a_file_that_ends_too_early_is_named_when_it_is_read(copy):
    reader = RecordReader(copy, (1,), ("t1",))
    [path] = copy.shard_paths((1,))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=f"{path.name}: ends at byte 1000"):
        reader.read_image(0, (0, 0, 0), np.zeros((20, 17, 16, 1), np.float16))


def test_a_disk_that_fails_is_named(dataset, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    reader = RecordReader(dataset, (1,), ("t1",))
    monkeypatch.setattr(os, "preadv", fail)
    [path] = dataset.shard_paths((1,))
    with pytest.raises(InputError, match=f"{path.name}: cannot be read .Input/output error."):
        reader.read_tumour(0)
