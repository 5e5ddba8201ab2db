import dataclasses

import numpy as np
import pytest

from brats_tfrecord import spec
from brats_tfrecord.cohort.geometry import Geometry
from brats_tfrecord.cohort.nifti import RawCase
from brats_tfrecord.preprocess import masks
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import example
from brats_tfrecord.records.example_proto import Example

RECIPE = Recipe(bias_correction="none", crop_origin=(1, 1, 2), crop_shape=(4, 5, 3))
# The file lay as (superior, left, anterior): shape and affine are the file's, arrays are LPS.
AFFINE = np.array([[0, -1.0, 0, 80], [0, 0, 1.0, -100], [1.0, 0, 0, -60], [0, 0, 0, 1]])
GEOMETRY = Geometry((8, 6, 7), AFFINE, xyzt_units=10, qform_code=2, sform_code=4)


def raw_case(labelled=True):
    rng = np.random.default_rng(0)
    assert GEOMETRY.lps_shape == (6, 7, 8)
    mask = rng.choice([0, 1, 2, 4], (6, 7, 8)).astype(np.int16) if labelled else None
    volumes = rng.normal(300, 90, (6, 7, 8, 4)).astype(np.float32)
    return RawCase("A_001", "A", "HGG", "brats2020", spec.MODALITIES, volumes, mask, GEOMETRY)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_decoding_returns_the_encoded_case(dtype):
    recipe = Recipe("none", "positive", RECIPE.crop_origin, RECIPE.crop_shape, dtype)
    raw = raw_case()
    done = recipe.apply(raw)
    stored = example.decode(example.encode(raw, done, recipe), dtype)
    assert (stored.case_id, stored.patient_id, stored.label_scheme) == ("A_001", "A", "brats2020")
    assert stored.modalities == spec.MODALITIES and stored.crop_origin == (1, 1, 2)
    assert stored.image.dtype == dtype
    np.testing.assert_array_equal(stored.image, done.image)
    np.testing.assert_array_equal(stored.classes, done.classes)
    np.testing.assert_array_equal(stored.geometry.affine, AFFINE)
    assert stored.geometry.shape == (8, 6, 7) and stored.geometry.lps_shape == (6, 7, 8)
    assert (stored.geometry.xyzt_units, stored.geometry.qform_code, stored.geometry.sform_code) == (
        10,
        2,
        4,
    )


def test_the_native_mask_includes_tumour_outside_the_window():
    raw = raw_case()
    stored = example.decode(example.encode(raw, RECIPE.apply(raw), RECIPE), "float16")
    assert len(stored.outside_index) > 0
    expected = masks.to_classes(raw.mask, spec.LABEL_SCHEMES["brats2020"], "A_001")
    np.testing.assert_array_equal(stored.native_classes(), expected)


def test_an_unlabelled_case_has_no_mask():
    raw = raw_case(labelled=False)
    record = example.encode(raw, RECIPE.apply(raw), RECIPE)
    assert example.decode(record, "float16").native_classes() is None


@pytest.mark.parametrize("labelled", [True, False])
def test_the_bytes_at_the_offsets_are_those_of_image_and_mask(labelled):
    raw = raw_case(labelled)
    payload = example.encode(raw, RECIPE.apply(raw), RECIPE)
    stored, offsets = example.decode(payload, "float16"), example.voxel_offsets(payload)
    image = np.frombuffer(payload, np.float16, stored.image.size, offsets["image"])
    np.testing.assert_array_equal(image.reshape(stored.image.shape), stored.image)
    if labelled:
        packed = np.frombuffer(payload, np.uint8, stored.classes.size, offsets["mask"])
        np.testing.assert_array_equal(
            packed.reshape(stored.classes.shape), np.left_shift(1, stored.classes)
        )
    sizes = {"image": stored.image.nbytes, "mask": stored.classes.size if labelled else 0}
    for name, size in sizes.items():
        before = example.bytes_before(name, size)
        assert payload[offsets[name] - len(before) : offsets[name]] == before


def test_equal_bytes_elsewhere_do_not_change_an_offset():
    """A case id, which comes first in the record, with the bytes that precede the image."""
    recipe, size = dataclasses.replace(RECIPE, crop_shape=(2, 2, 2)), 2 * 2 * 2 * 4 * 2
    raw = dataclasses.replace(raw_case(), case_id=example.bytes_before("image", size).decode())
    payload = example.encode(raw, recipe.apply(raw), recipe)
    stored = example.decode(payload, "float16")
    offset = example.voxel_offsets(payload)["image"]
    assert payload[offset : offset + size] == stored.image.tobytes()


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 200, 16_383, 16_384, 3_000_000])
def test_the_bytes_before_data_are_those_that_protobuf_writes(size):
    features = Example().features
    features.feature["mask"].bytes_list.value.append(bytes(size))
    assert example.bytes_before("mask", size) + bytes(size) == features.SerializeToString()


def test_a_record_is_only_of_its_own_case():
    raw = raw_case()
    payload = example.encode(raw, RECIPE.apply(raw), RECIPE)
    assert example.is_of_case(payload, "A_001")
    assert not any(example.is_of_case(payload, name) for name in ("A", "A_00", "A_0011", "B_001"))


def test_equal_cases_give_equal_bytes():
    raw = raw_case()
    assert example.encode(raw, RECIPE.apply(raw), RECIPE) == example.encode(
        raw, RECIPE.apply(raw_case()), RECIPE
    )


def test_a_record_names_the_modalities_that_its_case_lacks():
    complete = raw_case()
    raw = dataclasses.replace(complete, volumes=complete.volumes.copy(), missing=("t1", "flair"))
    raw.volumes[..., [0, 3]] = 0
    payload = example.encode(raw, RECIPE.apply(raw), RECIPE)
    stored = example.decode(payload, "float16")
    assert stored.missing == ("t1", "flair") and stored.modalities == spec.MODALITIES
    assert (
        not stored.image[..., [0, 3]].any() and stored.image[..., [1, 2]].any(axis=(0, 1, 2)).all()
    )


def test_the_record_of_a_complete_case_has_the_features_of_earlier_versions():
    raw = raw_case()
    payload = example.encode(raw, RECIPE.apply(raw), RECIPE)
    features = Example.FromString(payload).features.feature
    assert set(features) == example.FEATURES.keys() - {"missing"}
    assert example.decode(payload, "float16").missing == ()
