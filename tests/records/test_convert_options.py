import dataclasses

import pytest

from brats_tfrecord.errors import InputError
from brats_tfrecord.records.convert_options import USED_BY, ConvertOptions, parse_window


def test_the_defaults_are_the_documented_recipe():
    recipe = ConvertOptions("in", "out").recipe()
    assert (recipe.bias_correction, recipe.bias_mask) == ("n4", "positive")
    assert (recipe.crop_origin, recipe.crop_shape) == ((48, 48, 5), (144, 144, 144))
    assert (recipe.crop, recipe.resample, recipe.image_dtype) == ("auto", "none", "float16")
    assert recipe.normalize == "crop"


def test_the_recipe_follows_the_flags():
    recipe = ConvertOptions("in", "out", normalize="brain", image_dtype="float32").recipe()
    assert (recipe.normalize, recipe.image_dtype) == ("brain", "float32")


def test_ants_uses_its_own_mask():
    assert ConvertOptions("in", "out", bias_correction="ants").recipe().bias_mask == "get_mask"


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"output_dir": "out"}, "--input_dir: this flag is required"),
        ({"input_dir": "in"}, "--output_dir: this flag is required"),
        ({"input_dir": "", "output_dir": "out"}, "--input_dir: is empty"),
        ({"inspect": True}, "--input_dir: this flag is required"),
        ({"verify": True}, "--output_dir: this flag is required"),
        ({"inspect": True, "verify": True}, "--inspect and --verify: give only one"),
        ({"inspect": True, "input_dir": "in", "folds": 3}, "--folds=3: --inspect does not use it"),
        (
            {"verify": True, "output_dir": "out", "crop": "brain"},
            "--crop=brain: --verify does not use",
        ),
        ({"input_dir": "in", "output_dir": "out", "jobs": 0}, "--jobs=0: expected the number"),
        ({"input_dir": "in", "output_dir": "out", "verify_sample": 2}, "--verify_sample=2: only"),
        (
            {"input_dir": "in", "output_dir": "out", "crop": "brain", "image_dtype": "float8"},
            "image_dtype is 'float8'",
        ),
    ],
)
def test_contradictory_flags_are_refused(flags, message):
    with pytest.raises(InputError) as caught:
        ConvertOptions(**flags)
    assert message in str(caught.value)


def test_the_flags_of_every_mode_exist():
    names = {field.name for field in dataclasses.fields(ConvertOptions)}
    assert all(names.issuperset(used) for used in USED_BY.values())


@pytest.mark.parametrize("text", ["", "1:2,3:4", "1:2,3:4,5", "1:2,3:4,6:5", "-1:2,3:4,5:6", "a:b"])
def test_malformed_windows_are_refused(text):
    with pytest.raises(InputError, match="--crop_window=.*: expected first:end of x,y,z"):
        parse_window(text)


def test_a_window_with_too_many_voxels_is_refused():
    with pytest.raises(InputError, match="holds 999,989,999,900,001 voxels; expected at most"):
        parse_window("0:99999,0:99999,0:100001")


def test_a_window_is_parsed_to_origin_and_shape():
    assert parse_window("48:192,40:180,5:149") == ((48, 40, 5), (144, 140, 144))
