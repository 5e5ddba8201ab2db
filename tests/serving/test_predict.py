"""From raw case to native-space labels with the SavedModel that train.py wrote."""

import dataclasses
import json
import shutil

import nibabel
import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.records import example, manifest
from brats_tfrecord.serving.predict import Segmenter


@pytest.fixture(scope="module")
def segmenter(tiny_model):
    return Segmenter(tiny_model)


@pytest.fixture(scope="module")
def case(small_cohort):
    return layouts.find_cases(small_cohort)[0]


@pytest.fixture(scope="module")
def segmentation(segmenter, case):
    return segmenter.segment(case)


def test_labels_are_native_and_in_the_schemes_values(segmentation, case, tmp_path):
    segmentation.write(tmp_path / "seg.nii.gz")
    written, source = nibabel.load(tmp_path / "seg.nii.gz"), nibabel.load(case.image("t1"))
    assert written.shape == source.shape and written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(written.affine, source.affine)
    assert written.header["xyzt_units"] == source.header["xyzt_units"]
    assert set(np.unique(written.dataobj)) <= {0, 1, 2, 4}
    assert segmentation.labels.any(), "the tiny model must find something, or this says nothing"
    np.testing.assert_array_equal(
        np.array(spec.LABEL_SCHEMES["brats2020"].values)[segmentation.classes],
        segmentation.labels)
    np.testing.assert_allclose(segmentation.probabilities.sum(axis=-1), 1, atol=1e-5)


def test_stages_are_told_and_timed(segmenter, case):
    stages = []
    found = segmenter.segment(case, stages.append)
    assert stages == ["reading", "bias correction", "network"] == list(found.seconds)
    assert all(seconds > 0 for seconds in found.seconds.values())


def test_a_record_and_its_files_give_the_same(segmenter, segmentation, small_dataset):
    dataset = manifest.load(small_dataset)
    paths = [str(path) for path in dataset.shard_paths([0, 1])]
    stored = next(stored for stored in (
        example.decode(record, dataset.recipe.image_dtype)
        for record in tf.data.TFRecordDataset(paths).as_numpy_iterator())
        if stored.case_id == segmentation.case_id)
    found = segmenter.segment_stored(stored)
    np.testing.assert_allclose(found.probabilities, segmentation.probabilities, atol=1e-6)
    np.testing.assert_array_equal(found.labels, segmentation.labels)


@pytest.mark.parametrize("axes", ["RAS", "PIR", "SLA"])
def test_how_the_files_lie_does_not_matter(segmenter, segmentation, case, tmp_path, axes):
    target = nibabel.orientations.axcodes2ornt(tuple(axes))
    for path in case.images.values():
        image = nibabel.load(path)
        turn = nibabel.orientations.ornt_transform(
            nibabel.orientations.io_orientation(image.affine), target)
        (tmp_path / case.case_id).mkdir(exist_ok=True)
        nibabel.save(image.as_reoriented(turn), tmp_path / case.case_id / path.name)
    [turned] = layouts.find_cases(tmp_path)
    found = segmenter.segment(turned)
    np.testing.assert_array_equal(found.labels, segmentation.labels)
    found.write(tmp_path / "seg.nii.gz")
    written = nibabel.load(tmp_path / "seg.nii.gz")
    source = nibabel.load(turned.image("flair"))
    assert written.shape == source.shape and nibabel.aff2axcodes(written.affine) == tuple(axes)
    np.testing.assert_array_equal(written.affine, source.affine)


def test_channels_are_found_by_name(segmenter, segmentation, case):
    raw = nifti.read_case(case, ("t2", "t1", "flair", "t1ce"))
    np.testing.assert_array_equal(segmenter.segment_raw(raw).labels, segmentation.labels)


def test_a_missing_modality_is_named(segmenter, case):
    raw = nifti.read_case(case, ("t1", "flair"))
    with pytest.raises(CaseError, match="no t1ce, t2; this model needs flair, t1ce, t2"):
        segmenter.segment_raw(raw)
    without = dataclasses.replace(case, images={"t1": case.image("t1")})
    with pytest.raises(CaseError, match="no flair image"):
        segmenter.segment(without)


def test_folders_that_are_no_model_of_ours(tiny_model, tmp_path):
    with pytest.raises(InputError, match="no SavedModel there; expected a folder with saved_model"):
        Segmenter(tmp_path)
    with pytest.raises(InputError, match="no SavedModel there; try .*saved_model"):
        Segmenter(tiny_model.parent)
    tf.saved_model.save(tf.Module(), str(tmp_path / "foreign"))
    with pytest.raises(InputError, match="not one of ours"):
        Segmenter(tmp_path / "foreign")
    shutil.copytree(tiny_model, tmp_path / "newer")
    path = tmp_path / "newer" / "assets" / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(InputError, match="has schema 99, this version reads 3; .* newer version"):
        Segmenter(tmp_path / "newer")
    shutil.copytree(tiny_model, tmp_path / "damaged")
    (tmp_path / "damaged" / "saved_model.pb").write_bytes(b"\x00\xff" * 99)
    with pytest.raises(InputError, match="does not load"):
        Segmenter(tmp_path / "damaged")
