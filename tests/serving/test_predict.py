"""Segmentation of raw cases with a network whose output is known for every voxel."""

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
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.predict import Segmenter

pytestmark = pytest.mark.slow

SHAPE = (44, 38, 32)
RECIPE = Recipe(bias_correction="none", crop="brain", crop_shape=(42, 36, 30))
"""Its window contains the whole brain, so that records hold all that the network sees."""


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


@pytest.fixture(scope="module")
def segmenter(model):
    return Segmenter(model)


@pytest.fixture(scope="module")
def segmentation(segmenter, case):
    return segmenter.segment(case)


def stored(raw, recipe=RECIPE):
    """Encodes a raw case as a record and decodes it."""
    record = example.encode(raw, recipe.apply(raw), recipe)
    return example.decode(record, recipe.image_dtype)


def assert_equal(segmentation, expected):
    """Checks that two segmentations are equal to the bit."""
    np.testing.assert_array_equal(segmentation.labels, expected.labels)
    np.testing.assert_array_equal(segmentation.probabilities, expected.probabilities)
    assert segmentation.post_processing == expected.post_processing


def test_written_labels_have_the_cases_grid_and_the_schemes_values(
    segmentation, case, truth, tmp_path
):
    segmentation.write(tmp_path / "seg.nii.gz")
    written, source = nibabel.load(tmp_path / "seg.nii.gz"), nibabel.load(case.image("t1"))
    assert written.shape == source.shape and written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(written.affine, source.affine)
    assert written.header["xyzt_units"] == source.header["xyzt_units"]
    np.testing.assert_array_equal(segmentation.classes, truth)
    np.testing.assert_array_equal(written.dataobj, np.array([0, 1, 2, 4])[truth])
    np.testing.assert_allclose(segmentation.probabilities.sum(axis=-1), 1, atol=1e-5)


def test_stages_are_announced_and_timed(segmenter, case):
    stages = []
    seconds = segmenter.segment(case, stages.append).seconds
    assert stages == ["reading", "bias correction", "network"] == list(seconds)
    assert all(duration > 0 for duration in seconds.values())


def test_a_record_and_its_files_give_equal_segmentations(model, raw):
    segmenter = Segmenter(model)
    assert_equal(segmenter.segment_raw(raw), segmenter.segment_stored(stored(raw)))


def test_a_record_is_background_outside_its_window_and_files_are_predicted_there(
    raw, truth, tmp_path
):
    recipe = dataclasses.replace(
        RECIPE, crop="fixed", crop_origin=(20, 2, 4), crop_shape=(22, 36, 28)
    )
    segmenter = Segmenter(stand_in.save_model(tmp_path / "model", recipe, raw))
    np.testing.assert_array_equal(segmenter.segment_raw(raw).classes, truth)
    segmentation = segmenter.segment_stored(stored(raw, recipe))
    inside = np.zeros(SHAPE, bool)
    inside[20:42, 2:, 4:] = True
    assert truth[~inside].any()
    np.testing.assert_array_equal(segmentation.classes, np.where(inside, truth, 0))
    assert (segmentation.probabilities[~inside] == (1, 0, 0, 0)).all()
    assert not segmentation.entropy()[~inside].any()


def test_the_window_is_the_records_if_the_model_does_not_read_flair(raw, tmp_path):
    """Windows of records are centred on FLAIR; its brain is smaller here than that of T1ce."""
    volumes = raw.volumes.copy()
    volumes[:8, ..., spec.MODALITIES.index("flair")] = 0
    raw = dataclasses.replace(raw, volumes=volumes)
    path = tmp_path / "model"
    kernel, bias = np.full((1, 1, 1, 2, 4), 0.5, np.float32), np.zeros(4, np.float32)
    kernel[..., 0, 3] = 3
    export_saved_model(
        stand_in.convolution(kernel, bias), stand_in.model_card(RECIPE, ("t1ce", "t2")), path
    )
    segmenter = Segmenter(path)
    segmentation = segmenter.segment_raw(raw)
    assert segmentation.box_origin == RECIPE.window(volumes, spec.MODALITIES)
    assert segmentation.box_origin != RECIPE.window(volumes[..., 1:3], ("t1ce", "t2"))
    assert_equal(segmentation, segmenter.segment_stored(stored(raw)))
    case = stand_in.write_case(tmp_path / "cohort", volumes.astype(np.int16))
    assert_equal(segmenter.segment(case), segmentation)


@pytest.mark.parametrize(
    "names", [("t2", "t1", "flair", "t1ce"), ("t1ce", "t2", "flair"), ("flair", "t1ce", "t2")]
)
def test_channels_are_selected_by_name(segmenter, segmentation, case, names):
    assert_equal(segmenter.segment_raw(nifti.read_case(case, names)), segmentation)


def test_a_missing_modality_is_named(segmenter, case):
    raw = nifti.read_case(case, ("t1", "flair"))
    with pytest.raises(CaseError, match="no t1ce, t2 image; this model needs flair, t1ce, t2"):
        segmenter.segment_raw(raw)
    without = dataclasses.replace(case, images={"t1": case.image("t1")})
    with pytest.raises(CaseError, match="no flair, t1ce, t2 image"):
        segmenter.segment(without)


def test_another_shape_does_not_trace_a_new_graph(segmenter, raw, monkeypatch):
    segmenter.segment_raw(raw)
    graphs = []
    original = tf.Graph.__init__

    def counting(self, *args, **kwargs):
        graphs.append(self)
        original(self, *args, **kwargs)

    monkeypatch.setattr(tf.Graph, "__init__", counting)
    tf.function(lambda x: x + 1)(tf.zeros(3))
    assert graphs, "a traced function must be counted"
    graphs.clear()
    for shape in ((30, 40, 36), (41, 23, 27)):
        segmentation = segmenter.segment_raw(stand_in.raw_case(shape)[1])
        assert segmentation.labels.shape == shape
        assert segmentation.entropy().shape == shape
    segmenter.segment_stored(stored(raw))
    assert not graphs


@pytest.fixture(scope="module")
def post_processing_segmenter(raw, truth, tmp_path_factory):
    """Loads a model with post-processing.

    It keeps the enhancing tumour of `raw`, but would replace one of a voxel less, and removes
    components below 27.25 mm³ from WT.
    """
    path = tmp_path_factory.mktemp("post_processing") / "model"
    enhancing = int(np.count_nonzero(truth == spec.ET))
    post_processing = PostProcessing(enhancing, (27.25, 0.0, 0.0))
    return Segmenter(stand_in.save_model(path, RECIPE, raw, post_processing=post_processing))


@pytest.mark.parametrize("missing", [0, 1])
def test_a_small_enhancing_tumour_becomes_necrosis(post_processing_segmenter, truth, missing):
    _, raw = stand_in.raw_case(SHAPE)
    truth = truth.copy()
    for voxel in np.argwhere(truth == spec.ET)[:missing]:
        raw.volumes[(*voxel, spec.MODALITIES.index("t1ce"))] = 100
        truth[tuple(voxel)] = spec.ED
    stages = []
    result = post_processing_segmenter.segment_raw(raw, stages.append)
    assert stages == ["bias correction", "network", "post-processing"] == list(result.seconds)
    ml = np.count_nonzero(truth == spec.ET) / 1000
    assert result.post_processing == (f"ET of {ml:.3g} mL replaced by NCR/NET",) * missing
    np.testing.assert_array_equal(result.probabilities.argmax(axis=-1), truth)
    np.testing.assert_array_equal(
        result.classes, np.where((truth == spec.ET) & bool(missing), spec.NCR, truth)
    )
    assert_equal(post_processing_segmenter.segment_stored(stored(raw)), result)


@pytest.mark.parametrize(
    "spacing_mm, changes",
    [
        ((1.05, 1, 0.97), ()),
        ((1.05, 1, 0.96), ("small components of WT, 0.0272 mL in all, replaced by background",)),
    ],
)
def test_components_are_measured_with_the_cases_own_spacing(
    post_processing_segmenter, truth, spacing_mm, changes
):
    """A component of 27 voxels of edema measures 27.2 mm³ at 1.05 x 1 x 0.96 mm."""
    _, raw = stand_in.raw_case(SHAPE, stand_in.LPS @ np.diag([*spacing_mm, 1]))
    island = slice(8, 11), slice(18, 21), slice(9, 12)
    raw.volumes[(*island, spec.MODALITIES.index("flair"))] = 300
    expected = truth.copy()
    expected[island] = spec.BACKGROUND if changes else spec.ED
    result = post_processing_segmenter.segment_raw(raw)
    np.testing.assert_array_equal(result.classes, expected)
    assert result.post_processing == changes
    assert_equal(post_processing_segmenter.segment_stored(stored(raw)), result)


def test_a_constant_modality_causes_a_warning(segmenter):
    _, raw = stand_in.raw_case(SHAPE)
    assert segmenter.segment_raw(raw).warnings == ()
    name = segmenter.modalities[0]
    raw.volumes[..., spec.MODALITIES.index(name)] = 0
    assert segmenter.segment_raw(raw).warnings == (
        f"{name} does not vary: the network sees zeros in its place",
    )


def test_a_bare_affine_causes_a_warning_in_records_and_files_alike(segmenter):
    _, raw = stand_in.raw_case(SHAPE)
    raw = dataclasses.replace(
        raw, geometry=dataclasses.replace(raw.geometry, qform_code=0, sform_code=0)
    )
    [warning] = segmenter.segment_raw(raw).warnings
    assert warning.startswith("affine of the images has no orientation code: taken as it is")
    assert segmenter.segment_stored(stored(raw)).warnings == (warning,)


def test_other_types_and_file_names_are_refused(segmenter, segmentation, tmp_path):
    with pytest.raises(TypeError, match="expected one of the cases of find_cases, got a str"):
        segmenter.segment("cohort/BraTS20_Training_001")
    for path in (tmp_path, tmp_path / "seg.txt"):
        with pytest.raises(InputError, match=f"{path}: expected a file name that ends in .nii.gz"):
            segmentation.write(path)


def test_folders_without_a_usable_model_are_refused(model, tmp_path):
    with pytest.raises(InputError, match="holds no SavedModel; expected a folder with saved_model"):
        Segmenter(tmp_path)
    with pytest.raises(InputError, match="holds no SavedModel; try .*saved_model"):
        Segmenter(model.parent)
    tf.saved_model.save(tf.Module(), str(tmp_path / "foreign"))
    with pytest.raises(InputError, match="was not exported by train.py"):
        Segmenter(tmp_path / "foreign")
    shutil.copytree(model, tmp_path / "newer")
    path = tmp_path / "newer" / "assets" / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(InputError, match="has schema 99, this version reads 3 and 4"):
        Segmenter(tmp_path / "newer")
    shutil.copytree(model, tmp_path / "damaged")
    (tmp_path / "damaged" / "saved_model.pb").write_bytes(b"\x00\xff" * 99)
    with pytest.raises(InputError, match="does not load"):
        Segmenter(tmp_path / "damaged")
