"""Cases that lack modalities: which a model accepts, and that every way to predict agrees."""

import dataclasses

import numpy as np
import pytest
import stand_in
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.errors import CaseError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.records import example
from brats_tfrecord.serving.missing_modalities import MissingModalities
from brats_tfrecord.serving.predict import Segmenter

MODALITIES = ("flair", "t1ce", "t2")
COMPLETE = MissingModalities()
SOME = MissingModalities.of_cases(
    MODALITIES, [(), ("t1", "t2"), ("t1ce",)], [(), ("t2",), ("t1",), ("t2", "flair")]
)
DROPOUT = MissingModalities.of_cases(MODALITIES, [(), ()], [()], dropout=0.25)


def test_combinations_are_counted_in_the_order_of_the_channels():
    assert SOME.train == {"": 1, "t1ce": 1, "t2": 1}
    assert SOME.validated == {"": 2, "flair,t2": 1, "t2": 1}, "the model does not read t1"
    assert MissingModalities(0.25, {"": 2}, {"": 1}) == DROPOUT
    assert MissingModalities.of_cases(MODALITIES, [("t1",), ()], [("t1",)]) == COMPLETE


@pytest.mark.parametrize("missing", [COMPLETE, SOME, DROPOUT])
def test_json_round_trip(missing):
    assert MissingModalities.from_json(missing.to_json()) == missing
    assert (missing.to_json() is None) == (missing == COMPLETE)


@pytest.mark.parametrize("value", [{"dropout": 1.0}, {"train": {"t2": 0}}, {"validated": {1: 1}}])
def test_invalid_values_are_errors(value):
    with pytest.raises(ValueError):
        MissingModalities.from_json(value)


@pytest.mark.parametrize(
    "model, missing, reason",
    [
        (COMPLETE, (), None),
        (COMPLETE, ("t1",), None),
        (COMPLETE, ("t2",), "A: no t2 image; this model needs flair, t1ce, t2 and was never tra"),
        (SOME, ("t2", "t1ce"), None),
        (
            SOME,
            ("t2", "flair"),
            "without flair; add the missing files, or train a model with --mod",
        ),
        (DROPOUT, ("t2", "flair"), None),
        (DROPOUT, MODALITIES, "A: no flair, t1ce, t2 image; this model needs flair or t1ce or t2"),
    ],
)
def test_a_case_is_refused_if_training_always_saw_what_it_lacks(model, missing, reason):
    refusal = model.refusal("A", MODALITIES, missing)
    assert (reason in refusal) if reason else refusal == ""


def test_the_warning_says_whether_the_combination_was_validated():
    assert SOME.warnings(MODALITIES, ("t1",)) == ()
    assert SOME.warnings(MODALITIES, ("t2", "flair")) == (
        "no flair, t2 image: the network sees zeros in its place; the model was validated on 1 "
        "such case",
    )
    [warning] = DROPOUT.warnings(MODALITIES, ("t2",))
    assert warning.endswith("the model was not validated without t2")


def test_the_text_describes_training_and_validation():
    assert COMPLETE.text() == "never trained without one of its modalities"
    assert SOME.text() == (
        "trained on 1 complete case, 1 case without t1ce, 1 case without t2; validated on 2 "
        "complete cases, 1 case without flair, t2, 1 case without t2"
    )
    assert DROPOUT.text().startswith("trained with modality dropout 0.25; trained on 2 complete")


SHAPE = (44, 38, 32)
RECIPE = Recipe(bias_correction="n4", crop="brain", crop_shape=(42, 36, 30))


@pytest.fixture(scope="module")
def raw():
    """A head whose FLAIR covers half of the brain, so that the window depends on it."""
    raw = stand_in.raw_case(SHAPE)[1]
    raw.volumes[:22, ..., spec.MODALITIES.index("flair")] = 0
    return raw


@pytest.fixture(scope="module")
def make_segmenter(raw, tmp_path_factory):
    def make(missing):
        folder = tmp_path_factory.mktemp("model") / "saved_model"
        recipe = dataclasses.replace(RECIPE, crop_shape=(20, 30, 26))
        return Segmenter(stand_in.save_model(folder, recipe, raw, missing=missing))

    return make


@pytest.fixture(scope="module")
def segmenter(make_segmenter):
    return make_segmenter(DROPOUT)


def stored(raw, recipe):
    return example.decode(example.encode(raw, recipe.apply(raw), recipe), recipe.image_dtype)


@pytest.mark.slow
@pytest.mark.parametrize("names", [("flair",), ("t1ce",), ("flair", "t2"), ("t1", "t1ce", "t2")])
def test_files_record_arrays_and_graph_give_one_segmentation(segmenter, raw, tmp_path, names):
    """The window is that of the record; within it, the network's input is equal to the bit."""
    lacking = raw.without(names)
    record = segmenter.segment_stored(stored(lacking, segmenter.recipe))
    segmentation = segmenter.segment_raw(lacking)
    assert segmentation.missing == record.missing == tuple(n for n in MODALITIES if n in names)
    assert segmentation.warnings == record.warnings and len(record.warnings) == 1
    window = tuple(
        slice(first, first + size) for first, size in zip(record.box_origin, (20, 30, 26))
    )
    np.testing.assert_array_equal(segmentation.probabilities[window], record.box_probabilities)

    present = [name for name in spec.MODALITIES if name not in names]
    channels = [spec.MODALITIES.index(name) for name in present]
    absent = dataclasses.replace(
        raw, modalities=tuple(present), volumes=raw.volumes[..., channels], missing=()
    )
    np.testing.assert_array_equal(
        segmenter.segment_raw(absent).probabilities, segmentation.probabilities
    )

    case = stand_in.write_case(tmp_path, raw.volumes.astype(np.int16))
    images = {name: case.image(name) for name in present}
    from_files = segmenter.segment(dataclasses.replace(case, images=images))
    np.testing.assert_array_equal(from_files.probabilities, segmentation.probabilities)

    # The graph knows the model's modalities only; without t1 it places the window likewise.
    volumes = segmenter.recipe.correct(lacking.volumes)
    order = [spec.MODALITIES.index(name) for name in MODALITIES]
    graph = segmenter._model.signatures["segment"](volume=tf.constant(volumes[..., order]))
    np.testing.assert_array_equal(graph["labels"], segmentation.labels)
    np.testing.assert_allclose(graph["probabilities"], segmentation.probabilities, atol=1e-6)


@pytest.mark.slow
def test_a_model_of_complete_cases_refuses_in_one_line(make_segmenter, raw, tmp_path):
    segmenter, lacking = make_segmenter(COMPLETE), raw.without(["t1ce"])
    case = stand_in.write_case(tmp_path, raw.volumes.astype(np.int16))
    images = {name: case.image(name) for name in ("flair", "t2")}
    for segment in (
        lambda: segmenter.segment_raw(lacking),
        lambda: segmenter.segment_stored(stored(lacking, segmenter.recipe)),
        lambda: segmenter.segment(dataclasses.replace(case, images=images)),
    ):
        with pytest.raises(CaseError, match=r"no t1ce image; this model needs .*never trained"):
            segment()
    assert segmenter.segment_raw(raw.without(["t1"])).missing == ()
