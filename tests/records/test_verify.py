"""Datasets that are damaged in many ways: each problem is named by file and case."""

import dataclasses
import json
import shutil
import struct

import nibabel
import numpy as np
import pytest

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.records import convert, example, tfrecord, verify, verify_records
from brats_tfrecord.records.convert_options import ConvertOptions
from brats_tfrecord.records.example_proto import Example
from brats_tfrecord.records.pool import Workers

SHARD, OTHER = "fold0-00000-of-00001.tfrecord", "fold1-00000-of-00001.tfrecord"
SIDECAR = SHARD.replace("tfrecord", "json")


@pytest.fixture(scope="module")
def finished(small_cohort, tmp_path_factory):
    """The small cohort in two folds of two records a shard, and an unlabelled one."""
    root = tmp_path_factory.mktemp("finished")
    convert.convert(
        ConvertOptions(
            str(small_cohort),
            str(root),
            folds=2,
            cases_per_shard=2,
            jobs=2,
            bias_correction="none",
            crop="brain",
            crop_window="0:40,0:44,0:36",
        )
    )
    return root


@pytest.fixture
def dataset(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "dataset")


def verified(root, *arguments, **options):
    """Returns [(file, case id, text)] of the problems."""
    found = verify.verify(root, *arguments, workers=Workers(1), **options)
    assert not any("\n" in str(problem) for problem in found)
    return [dataclasses.astuple(problem) for problem in found]


def cases_of(root, shard=SHARD):
    """Lists case ids in the order of the records of a shard."""
    return [
        row["case_id"]
        for row in json.loads((root / "dataset.json").read_text())["cases"]
        if row["shard"] == shard
    ]


def edit(path, change):
    """Applies `change` to the value of a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    files.write_json(path, value)


def rewrite(root, shard, payloads):
    """Writes other records to a shard, with right checksums, and updates sidecar and manifest."""
    path = root / shard
    path.write_bytes(b"".join(piece for payload in payloads for piece in tfrecord.frame(payload)))
    entry = {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
    offsets, end = {}, 0
    for payload in payloads:
        voxels = example.voxel_offsets(payload)
        offsets[verify_records.case_id_of(payload)] = {
            "record_offset": end + tfrecord.HEADER_BYTES,
            "record_bytes": len(payload),
            "image_offset": voxels["image"],
            "mask_offset": voxels["mask"],
        }
        end += tfrecord.HEADER_BYTES + len(payload) + tfrecord.FOOTER_BYTES

    def update(value):
        for listed in value.get("shards", [value.get("shard")]):
            if listed["name"] == shard:
                listed.update(entry)
        for row in value["cases"]:
            row.update(offsets.get(row["case_id"], {}))

    edit(path.with_suffix(".json"), update)
    edit(root / "dataset.json", update)


def with_feature(payload, name, change):
    """Returns a payload in which the bytes of one feature are changed."""
    example = Example.FromString(payload)
    values = example.features.feature[name].bytes_list.value
    values[0] = change(values[0])
    return example.SerializeToString(deterministic=True)


def test_a_sound_dataset_has_no_problem(finished, small_cohort):
    assert verified(finished) == []
    assert verified(finished, small_cohort, sample=5) == []


def second_record(path):
    """Returns the byte offset of the second record of a shard."""
    return len(next(tfrecord.framed_records(path)))


@pytest.mark.parametrize(
    "part, text",
    [
        ("image", "record 1: its data do not fit their checksum"),
        ("length", "record 1: its length does not fit its checksum"),
        ("checksum", "record 1: its data do not fit their checksum"),
    ],
)
def test_a_flipped_byte_is_named_by_its_case(dataset, part, text):
    path = dataset / SHARD
    data, start = bytearray(path.read_bytes()), second_record(path)
    data[{"image": start + 5000, "length": start + 2, "checksum": len(data) - 1}[part]] ^= 0x10
    path.write_bytes(data)
    found = verified(dataset)
    assert (SHARD, cases_of(dataset)[1], text) in found
    assert any(file == SHARD and "has SHA-256" in what for file, _, what in found)
    assert {case for _, case, _ in found} == {None, cases_of(dataset)[1]}


def test_records_behind_a_damaged_length_are_named_too(dataset):
    data = bytearray((dataset / SHARD).read_bytes())
    data[0] ^= 1
    (dataset / SHARD).write_bytes(data)
    first, second = cases_of(dataset)
    found = {case: what for _, case, what in verified(dataset) if case}
    assert "length does not fit" in found[first] and "missing, or cannot" in found[second]


def test_a_deleted_record_is_named(dataset):
    [_first, second] = tfrecord.read_records(dataset / SHARD)
    (dataset / SHARD).write_bytes(b"".join(tfrecord.frame(second)))
    found = verified(dataset)
    assert [case for _, case, _ in found if case] == [cases_of(dataset)[0]]
    assert any("its record is missing" in what for _, _, what in found)
    assert any("bytes; expected" in what for _, _, what in found)


def test_records_in_another_order_are_named(dataset):
    rewrite(dataset, SHARD, [*tfrecord.read_records(dataset / SHARD)][::-1])
    found = verified(dataset)
    [(case, text)] = [(case, text) for file, case, text in found if file == SHARD]
    assert case is None and "holds its records in the order" in text
    assert {case for file, case, _ in found if file != SHARD} == set(cases_of(dataset))


def test_swapped_shards_are_both_named_with_all_cases(dataset):
    (dataset / SHARD).rename(dataset / "aside")
    (dataset / OTHER).rename(dataset / SHARD)
    (dataset / "aside").rename(dataset / OTHER)
    found = verified(dataset)
    for mine, theirs in ((SHARD, OTHER), (OTHER, SHARD)):
        foreign = {case for file, case, what in found if file == mine and "is number" in what}
        missing = {case for file, case, what in found if file == mine and "is missing" in what}
        assert foreign == set(cases_of(dataset, theirs)) and missing == set(cases_of(dataset, mine))


def test_a_missing_shard_or_sidecar_does_not_hide_the_others(dataset):
    (dataset / SHARD).unlink()
    (dataset / OTHER.replace("tfrecord", "json")).unlink()
    (dataset / "unlabelled-00000-of-00001.tfrecord").write_bytes(b"short")
    found = {file: what for file, _, what in verified(dataset)}
    assert "is missing, with its cases" in found[SHARD]
    assert f"nothing proves {OTHER} complete" in found[OTHER.replace("tfrecord", "json")]
    assert "unlabelled-00000-of-00001.tfrecord" in found


@pytest.mark.parametrize(
    "field, value", [("grade", "LGG"), ("brain_voxels_lost", 0), ("record_offset", 12)]
)
def test_an_edited_sidecar_is_named(dataset, field, value):
    edit(dataset / SIDECAR, lambda sidecar: sidecar["cases"][1].update({field: value}))
    [(file, case, what)] = verified(dataset)
    assert (file, case) == (SIDECAR, cases_of(dataset)[1])
    assert what.startswith(f"{field} is {value}, dataset.json says")


def test_an_edited_count_of_the_manifest_is_named(dataset):
    edit(dataset / "dataset.json", lambda value: value["cases"][0]["class_voxels"].reverse())
    found = verified(dataset)
    case_id = cases_of(dataset)[0]
    assert ("dataset.json", case_id) in {(file, case) for file, case, _ in found}
    assert any(file == "dataset.json" and "its record holds" in what for file, _, what in found)
    assert {case for _, case, _ in found} == {case_id}


@pytest.mark.parametrize("field", ["record_offset", "record_bytes", "image_offset", "mask_offset"])
def test_a_wrong_offset_is_named_by_its_case(dataset, field):
    """Sidecar and manifest agree on the wrong offset."""
    _first, second = cases_of(dataset)

    def shift(value):
        [row] = [row for row in value["cases"] if row["case_id"] == second]
        row[field] += 1

    edit(dataset / SIDECAR, shift)
    edit(dataset / "dataset.json", shift)
    [(file, case_id, text)] = verified(dataset)
    assert (file, case_id) == ("dataset.json", second)
    assert text.startswith(f"{field} is ") and ("its record holds" in text or "behind" in text)


@pytest.mark.parametrize("voxels", [{"t9": "0" * 64}, {"t1": "short"}, {"t1": 5}])
def test_a_digest_that_is_none_is_named(dataset, voxels):
    first = cases_of(dataset)[0]

    def replace(value):
        [row] = [row for row in value["cases"] if row["case_id"] == first]
        row["voxels"] = voxels

    edit(dataset / SIDECAR, replace)
    edit(dataset / "dataset.json", replace)
    [(file, case_id, text)] = verified(dataset)
    assert (file, case_id) == ("dataset.json", first) and text.startswith("voxels of t")


def test_a_fresh_conversion_finds_another_digest(dataset, small_cohort):
    first = cases_of(dataset)[0]

    def replace(value):
        [row] = [row for row in value["cases"] if row["case_id"] == first]
        row["voxels"]["t2"] = "0" * 64

    edit(dataset / SIDECAR, replace)
    edit(dataset / "dataset.json", replace)
    [(file, case_id, text)] = verified(dataset, small_cohort, sample=99)
    assert (file, case_id) == ("dataset.json", first) and text.startswith("voxels is {")


def test_a_dataset_of_an_earlier_schema_is_refused_with_the_command_to_run(dataset):
    edit(dataset / "dataset.json", lambda value: value.update(schema=3))
    with pytest.raises(InputError, match="schema 3, .* run convert_to_tfrecord.py .* new --output"):
        verify.verify(dataset)


@pytest.mark.parametrize(
    "key, value, what",
    [
        ("versions", {"numpy": "0.9"}, "key does not fit"),
        ("seed", 77, "order that seed 77 gives"),
        ("label_scheme", "brats2024", "classes is"),
        ("modalities", ["t1", "t2"], "modalities is"),
        ("schema", 99, "is damaged: schema 99"),
        ("folds", 1, "beyond the 1 folds"),
        (
            "failures",
            [{"case_id": "A", "reason": "lost"}],
            "failure is lost, the sidecars say None",
        ),
        ("cases", [{"case_id": "A"}], "are missing or unknown"),
    ],
)
def test_an_edited_manifest_is_named(dataset, key, value, what):
    edit(dataset / "dataset.json", lambda manifest_value: manifest_value.update({key: value}))
    assert any(file == "dataset.json" and what in text for file, _, text in verified(dataset))


def test_a_manifest_beyond_repair_does_not_hide_a_damaged_shard(dataset):
    path = dataset / SHARD
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    case_id = cases_of(dataset)[1]
    (dataset / "dataset.json").write_text("{")
    found = verified(dataset)
    assert found[0][0] == "dataset.json" and "is damaged" in found[0][2]
    assert (SHARD, case_id, "record 1: its data do not fit their checksum") in found


def test_a_patient_in_two_folds_is_named_with_both_cases(dataset):
    """Manifest, sidecars and records agree; only the folds show that it is wrong."""
    leaked, other = cases_of(dataset)[0], cases_of(dataset, OTHER)[0]

    def rename(value):
        for row in value["cases"]:
            if row["case_id"] in (leaked, other):
                row["patient_id"] = "P_001"

    for name in (SHARD, OTHER):
        first, *rest = tfrecord.read_records(dataset / name)
        rewrite(dataset, name, [with_feature(first, "patient_id", lambda old: b"P_001"), *rest])
        edit((dataset / name).with_suffix(".json"), rename)
    edit(dataset / "dataset.json", rename)
    found = [what for file, _, what in verified(dataset) if file == "dataset.json"]
    assert (f"patient P_001 is in more than one fold: fold 0 ({leaked}), fold 1 ({other})") in found


def test_a_case_listed_twice_is_named(dataset):
    edit(dataset / "dataset.json", lambda value: value["cases"].append(value["cases"][0]))
    assert any(
        "is listed 2 times" in what and case == cases_of(dataset)[0]
        for _, case, what in verified(dataset)
    )


@pytest.mark.parametrize("stray", ["fold0-00000-of-00002.tfrecord", "fold7-00000-of-00001.json"])
def test_shards_and_sidecars_that_are_not_listed_are_named(dataset, stray):
    (dataset / stray).write_bytes(b"")
    (dataset / "notes.txt").write_text("mine")
    [(file, _, what)] = verified(dataset)
    assert file == stray and "is not in dataset.json" in what


def two_bits(packed):
    packed = bytearray(packed)
    packed[7] = 0b11
    return bytes(packed)


def infinite(image):
    return struct.pack("<e", float("inf")) + image[2:]


@pytest.mark.parametrize(
    "feature, change, what",
    [
        ("mask", two_bits, "mask: 1 voxels have not exactly one bit set"),
        (
            "mask",
            lambda packed: b"\x20" + packed[1:],
            "mask: bits above the 4 classes of brats2020",
        ),
        ("mask", lambda packed: packed[:-1], "cannot be decoded"),
        ("image", infinite, "image holds 1 NaN or infinite values"),
        ("image", lambda image: image[:-8], "cannot be decoded"),
        ("mask/outside_crop/class", lambda old: b"\0" + old[1:], "classes that are not tumour"),
        ("mask/outside_crop/index", lambda old: old[12:] + old[-12:], "or named twice"),
        (
            "mask/outside_crop/index",
            lambda old: struct.pack("<3i", -1, 0, 0) + old[12:],
            "outside the",
        ),
        ("native/affine", lambda old: bytes(128), "native geometry makes no sense"),
        ("native/orientation", lambda old: b"RAS", "native/orientation is RAS"),
        ("modalities", lambda old: b"t1,t2", "modalities are ('t1', 't2')"),
        ("label_scheme", lambda old: b"brats2023", "label_scheme is brats2023; expected brats2020"),
        ("patient_id", lambda old: b"P", "its record holds P"),
    ],
)
def test_a_wrong_record_with_right_checksums_is_named(dataset, feature, change, what):
    first, second = tfrecord.read_records(dataset / SHARD)
    rewrite(dataset, SHARD, [first, with_feature(second, feature, change)])
    found = verified(dataset)
    assert {case for _, case, _ in found} == {cases_of(dataset)[1]}
    assert any(what in text for _, _, text in found), found


def test_a_changed_input_voxel_is_named(dataset, small_cohort, tmp_path):
    cohort = shutil.copytree(small_cohort, tmp_path / "cohort")
    path = cohort / "BraTS20_Training_002" / "BraTS20_Training_002_t2.nii.gz"
    image = nibabel.load(path)
    voxels = np.array(image.dataobj)
    voxels[40, 40, 30] += 1
    nibabel.save(type(image)(voxels, image.affine, image.header), path)
    shutil.rmtree(cohort / "BraTS20_Training_004")
    found = verified(dataset, cohort, sample=9)
    assert found == [
        (str(cohort), "BraTS20_Training_004", "is missing, but in the dataset"),
        (
            str(path.relative_to(cohort)),
            "BraTS20_Training_002",
            "is not the file that was converted: its SHA-256 differs",
        ),
    ]


def test_a_fresh_conversion_names_what_differs(dataset, small_cohort):
    """Manifest, sidecar and record agree; only a fresh conversion shows the difference."""
    first, second = tfrecord.read_records(dataset / SHARD)
    rewrite(
        dataset, SHARD, [with_feature(first, "image", lambda image: b"\0\1" + image[2:]), second]
    )
    assert verified(dataset) == []
    [(file, case, what)] = verified(dataset, small_cohort, sample=5)
    assert (file, case) == (SHARD, cases_of(dataset)[0])
    assert "a fresh conversion differs in image; the versions are the same" in what


def test_folders_without_a_dataset_are_refused(tmp_path, finished):
    with pytest.raises(InputError, match="is not a dataset"):
        verify.verify(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        verify.verify(finished, tmp_path / "nowhere")
