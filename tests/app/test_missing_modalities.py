"""Cases that lack a modality, in the viewer: opened if the model was trained without it."""

import dataclasses

import numpy as np
import pytest
import stand_in

from app import intake, jobs, scene
from brats_tfrecord.cohort import layouts
from brats_tfrecord.errors import CaseError, InputError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.missing_modalities import MissingModalities
from brats_tfrecord.serving.predict import Segmenter

SHAPE = (44, 38, 32)
RECIPE = Recipe(bias_correction="none", crop="brain", crop_shape=(42, 36, 30))
DROPOUT = MissingModalities(0.5, {"": 2}, {"": 1})


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A case in files, without T1ce."""
    volumes = stand_in.head(SHAPE)[1]
    root = tmp_path_factory.mktemp("cohort")
    stand_in.write_case(root, volumes).image("t1ce").unlink()
    return layouts.find_cases(root)[0]


@pytest.fixture(scope="module", params=[DROPOUT, MissingModalities()], ids=["dropout", "complete"])
def segmenter(request, tmp_path_factory):
    raw = stand_in.raw_case(SHAPE)[1]
    folder = tmp_path_factory.mktemp("model") / "saved_model"
    return Segmenter(stand_in.save_model(folder, RECIPE, raw, missing=request.param))


@pytest.mark.slow
def test_a_case_of_the_folder_is_segmented_or_refused_in_one_line(case, segmenter):
    loaded = intake.load_case(case)
    assert loaded.raw.modalities == ("t1", "t2", "flair")
    job = jobs.Queue(segmenter).submit(scene.prepare(loaded))
    job.wait()
    if segmenter.card.missing == DROPOUT:
        assert job.error is None
        assert job.result.warnings == (
            "no t1ce image: the network sees zeros in its place; the model was not validated "
            "without t1ce",
        )
        assert job.result.volumes_ml["WT"] > 0 == job.result.volumes_ml["ET"]
    else:
        assert isinstance(job.error, CaseError)
        assert "no t1ce image; this model needs flair, t1ce, t2" in str(job.error)


def test_an_upload_needs_what_the_model_was_never_trained_without(case):
    uploads = [(case.image(name).name, case.image(name).read_bytes()) for name in ("flair", "t2")]
    kinds = {"flair": 0, "t2": 1}
    model = stand_in.model_card(RECIPE)
    needed = model.missing.always_there(model.modalities)
    with pytest.raises(InputError, match="no t1ce image among the uploaded files"):
        intake.load_uploads(uploads, kinds, needed)
    needed = dataclasses.replace(model, missing=DROPOUT).missing.always_there(model.modalities)
    loaded = intake.load_uploads(uploads, kinds, needed)
    assert loaded.raw.modalities == ("t2", "flair") and np.ptp(loaded.raw.volumes) > 0
    with pytest.raises(InputError, match="no t1 and no t1ce and no t2 and no flair image"):
        intake.load_uploads(uploads, {}, needed)
