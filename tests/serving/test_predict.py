"""From raw case to native-space labels, by a network whose every answer is known."""

import dataclasses
import json
import shutil

import nibabel
import numpy as np
import pytest
import stand_in
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import example
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.predict import Segmenter

SHAPE = (44, 38, 32)
RECIPE = Recipe(bias_correction="none", crop="brain", crop_shape=(42, 36, 30))
"""Its window holds the whole brain: both covers see the same."""

COVERS = ["brain", "window"]


@pytest.fixture(scope="module")
def raw():
    return stand_in.raw_case(SHAPE)[1]


@pytest.fixture(scope="module")
def truth():
    return stand_in.raw_case(SHAPE)[0]


@pytest.fixture(scope="module")
def model(raw, tmp_path_factory):
    return stand_in.save_model(tmp_path_factory.mktemp("model") / "saved_model", RECIPE, raw)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return stand_in.write_case(tmp_path_factory.mktemp("cohort"), stand_in.head(SHAPE)[1])


@pytest.fixture(scope="module", params=COVERS)
def segmenter(request, model):
    return Segmenter(model, request.param)


@pytest.fixture(scope="module")
def segmentation(segmenter, case):
    return segmenter.segment(case)


def stored(raw, recipe=RECIPE):
    """The record of a raw case, read back."""
    record = example.encode(raw, recipe.apply(raw), recipe)
    return example.decode(record, recipe.image_dtype)


def assert_equal(found, expected):
    """Whether two segmentations are the same, to the bit."""
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    assert found.post_processing == expected.post_processing


def test_labels_are_native_and_in_the_schemes_values(segmentation, case, truth, tmp_path):
    segmentation.write(tmp_path / "seg.nii.gz")
    written, source = nibabel.load(tmp_path / "seg.nii.gz"), nibabel.load(case.image("t1"))
    assert written.shape == source.shape and written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(written.affine, source.affine)
    assert written.header["xyzt_units"] == source.header["xyzt_units"]
    np.testing.assert_array_equal(segmentation.classes, truth)
    np.testing.assert_array_equal(written.dataobj, np.array([0, 1, 2, 4])[truth])
    np.testing.assert_allclose(segmentation.probabilities.sum(axis=-1), 1, atol=1e-5)


def test_stages_are_told_and_timed(segmenter, case):
    stages = []
    found = segmenter.segment(case, stages.append)
    assert stages == ["reading", "bias correction", "network"] == list(found.seconds)
    assert all(seconds > 0 for seconds in found.seconds.values())


def test_a_record_and_its_files_give_the_same_bits(model, raw):
    segmenter = Segmenter(model, "window")
    assert_equal(segmenter.segment_raw(raw), segmenter.segment_stored(stored(raw)))


def test_outside_the_window_background_is_certain(raw, truth, tmp_path):
    recipe = dataclasses.replace(
        RECIPE, crop="fixed", crop_origin=(20, 2, 4), crop_shape=(22, 36, 28)
    )
    segmenter = Segmenter(stand_in.save_model(tmp_path / "model", recipe, raw), "window")
    found = segmenter.segment_raw(raw)
    assert_equal(found, segmenter.segment_stored(stored(raw, recipe)))
    inside = np.zeros(SHAPE, bool)
    inside[20:42, 2:, 4:] = True
    assert truth[~inside].any()
    np.testing.assert_array_equal(found.classes, np.where(inside, truth, 0))
    assert (found.probabilities[~inside] == (1, 0, 0, 0)).all()
    assert not found.entropy()[~inside].any()


def test_the_window_lies_where_the_record_has_it_whatever_the_model_reads(raw, tmp_path):
    """Records are centred on FLAIR; here its brain ends before that of the model's T1ce."""
    volumes = raw.volumes.copy()
    volumes[:8, ..., spec.MODALITIES.index("flair")] = 0
    raw = dataclasses.replace(raw, volumes=volumes)
    path = tmp_path / "model"
    kernel, bias = np.full((1, 1, 1, 2, 4), 0.5, np.float32), np.zeros(4, np.float32)
    kernel[..., 0, 3] = 3
    export_saved_model(
        stand_in.convolution(kernel, bias), stand_in.model_card(RECIPE, ("t1ce", "t2")), path
    )
    segmenter = Segmenter(path, "window")
    found = segmenter.segment_raw(raw)
    assert found.origin == RECIPE.window(volumes, spec.MODALITIES)
    assert found.origin != RECIPE.window(volumes[..., 1:3], ("t1ce", "t2"))
    assert_equal(found, segmenter.segment_stored(stored(raw)))
    case = stand_in.write_case(tmp_path / "cohort", volumes.astype(np.int16))
    assert_equal(segmenter.segment(case), found)


@pytest.mark.parametrize(
    "names", [("t2", "t1", "flair", "t1ce"), ("t1ce", "t2", "flair"), ("flair", "t1ce", "t2")]
)
def test_channels_are_found_by_name(segmenter, segmentation, case, names):
    assert_equal(segmenter.segment_raw(nifti.read_case(case, names)), segmentation)


def test_a_missing_modality_is_named(segmenter, case):
    raw = nifti.read_case(case, ("t1", "flair"))
    with pytest.raises(CaseError, match="no t1ce, t2; this model needs flair, t1ce, t2"):
        segmenter.segment_raw(raw)
    without = dataclasses.replace(case, images={"t1": case.image("t1")})
    with pytest.raises(CaseError, match="no flair image"):
        segmenter.segment(without)


def test_another_shape_needs_no_new_graph(segmenter, raw, monkeypatch):
    segmenter.segment_raw(raw)
    graphs = []
    made = tf.Graph.__init__
    monkeypatch.setattr(
        tf.Graph,
        "__init__",
        lambda self, *args, **rest: (graphs.append(self), made(self, *args, **rest))[1],
    )
    tf.function(lambda x: x + 1)(tf.zeros(3))
    assert graphs, "a traced function must count, or this says nothing"
    graphs.clear()
    for shape in ((30, 40, 36), (41, 23, 27)):
        found = segmenter.segment_raw(stand_in.raw_case(shape)[1])
        assert found.labels.shape == shape
        assert found.entropy().shape == shape
    segmenter.segment_stored(stored(raw))
    assert not graphs


@pytest.fixture(scope="module", params=COVERS)
def correcting(request, raw, truth, tmp_path_factory):
    """A model that keeps the enhancing tumour of `raw`, but not one of a voxel less, and takes
    components of less than 27.25 mm³ out of WT."""
    path = tmp_path_factory.getbasetemp() / "correcting"
    if not path.exists():
        enhancing = int(np.count_nonzero(truth == spec.ET))
        stand_in.save_model(
            path, RECIPE, raw, post_processing=PostProcessing(enhancing, (27.25, 0.0, 0.0))
        )
    return Segmenter(path, request.param)


@pytest.mark.parametrize("missing", [0, 1])
def test_faint_enhancement_becomes_necrosis_and_the_user_is_told(correcting, truth, missing):
    _, raw = stand_in.raw_case(SHAPE)
    truth = truth.copy()
    for voxel in np.argwhere(truth == spec.ET)[:missing]:
        raw.volumes[(*voxel, spec.MODALITIES.index("t1ce"))] = 100
        truth[tuple(voxel)] = spec.ED
    stages = []
    found = correcting.segment_raw(raw, stages.append)
    assert stages == ["bias correction", "network", "post-processing"] == list(found.seconds)
    left = np.count_nonzero(truth == spec.ET)
    assert found.post_processing == (f"ET of {left / 1000:.3g} mL replaced by NCR/NET",) * missing
    np.testing.assert_array_equal(found.probabilities.argmax(axis=-1), truth)
    np.testing.assert_array_equal(
        found.classes, np.where((truth == spec.ET) & bool(missing), spec.NCR, truth)
    )
    assert_equal(correcting.segment_stored(stored(raw)), found)


@pytest.mark.parametrize(
    "spacing_mm, told",
    [
        ((1.05, 1, 0.97), ()),
        ((1.05, 1, 0.96), ("small components of WT, 0.0272 mL in all, replaced by background",)),
    ],
)
def test_small_components_go_by_the_cases_own_millimetres(correcting, truth, spacing_mm, told):
    """An island of 27 voxels of edema: of 1.05 x 1 x 0.96 mm they are 27.2 mm³."""
    _, raw = stand_in.raw_case(SHAPE, stand_in.LPS @ np.diag([*spacing_mm, 1]))
    island = slice(8, 11), slice(18, 21), slice(9, 12)
    raw.volumes[(*island, spec.MODALITIES.index("flair"))] = 300
    expected = truth.copy()
    expected[island] = spec.BACKGROUND if told else spec.ED
    found = correcting.segment_raw(raw)
    np.testing.assert_array_equal(found.classes, expected)
    assert found.post_processing == told
    assert_equal(correcting.segment_stored(stored(raw)), found)


def test_a_modality_that_says_nothing_is_told_of(segmenter):
    _, raw = stand_in.raw_case(SHAPE)
    assert segmenter.segment_raw(raw).warnings == ()
    name = segmenter.modalities[0]
    raw.volumes[..., spec.MODALITIES.index(name)] = 0
    assert segmenter.segment_raw(raw).warnings == (
        f"{name} does not vary: the network sees zeros in its place",
    )


def test_only_a_case_is_segmented_and_only_nifti_written(segmenter, segmentation, tmp_path):
    with pytest.raises(TypeError, match="expected one of the cases of find_cases, got a str"):
        segmenter.segment("cohort/BraTS20_Training_001")
    for path in (tmp_path, tmp_path / "seg.txt"):
        with pytest.raises(InputError, match=f"{path}: expected a file name that ends in .nii.gz"):
            segmentation.write(path)


def test_only_the_known_covers(model):
    with pytest.raises(InputError, match="cover='head': expected one of brain, window"):
        Segmenter(model, "head")


def test_folders_that_are_no_model_of_ours(model, tmp_path):
    with pytest.raises(InputError, match="no SavedModel there; expected a folder with saved_model"):
        Segmenter(tmp_path)
    with pytest.raises(InputError, match="no SavedModel there; try .*saved_model"):
        Segmenter(model.parent)
    tf.saved_model.save(tf.Module(), str(tmp_path / "foreign"))
    with pytest.raises(InputError, match="not one of ours"):
        Segmenter(tmp_path / "foreign")
    shutil.copytree(model, tmp_path / "newer")
    path = tmp_path / "newer" / "assets" / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(InputError, match=f"has schema 99, this version reads {cards.SCHEMA}"):
        Segmenter(tmp_path / "newer")
    shutil.copytree(model, tmp_path / "damaged")
    (tmp_path / "damaged" / "saved_model.pb").write_bytes(b"\x00\xff" * 99)
    with pytest.raises(InputError, match="does not load"):
        Segmenter(tmp_path / "damaged")
