"""The card of a model: what it says, and folders whose card is refused."""

import dataclasses
import json

import pytest

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.postprocess import PostProcessing

CARD = ModelCard(
    Recipe(crop_shape=(18, 20, 14)),
    ("t1ce", "flair"),
    "brats2024",
    "regions",
    4,
    10**6,
    "f" * 64,
    ("A_001",),
    ("A_002",),
    {"epochs": 3},
    PostProcessing(50, (0, 20, 0)),
    flips=True,
    members=5,
    assets={"a": "0" * 64},
)


@pytest.fixture
def write(tmp_path):
    """Writes a model's folder with a card, text or JSON value, and gives it back."""

    def run(card):
        (tmp_path / "saved_model.pb").touch()
        text = card if isinstance(card, str) else json.dumps(card)
        files.write_text(tmp_path / "assets" / "model.json", text)
        return tmp_path

    return run


def test_a_card_comes_back_equal(write):
    model = write(CARD.to_json())
    assert cards.read(model) == CARD
    assert cards.read(model).digest == CARD.digest


def test_it_names_classes_and_channels():
    said = CARD.to_json()
    assert said["schema"] == 3
    assert said["classes"] == ["background", "NCR/NET", "ED", "ET", "RC"]
    assert said["channels"] == ["WT", "TC", "ET", "RC"]


def test_it_knows_what_a_case_was_used_for():
    assert [CARD.use_of(case) for case in ("A_001", "A_002", "A_003")] == [
        "train",
        "select",
        "unseen",
    ]


def test_the_digest_is_of_all_but_the_assets():
    assert dataclasses.replace(CARD, assets={}).digest == CARD.digest
    for change in (
        {"flips": False},
        {"training": {"epochs": 4}},
        {"recipe": Recipe()},
        {"post_processing": PostProcessing()},
        {"stride": 8},
    ):
        assert dataclasses.replace(CARD, **change).digest != CARD.digest


@pytest.mark.parametrize(
    "field, value",
    [
        ("modalities", ()),
        ("modalities", ("flair", "pet")),
        ("label_scheme", "brats1999"),
        ("targets", "voxels"),
        ("stride", 0),
        ("stride", 2.0),
        ("whole_voxels", "many"),
        ("flips", 1),
        ("members", 0),
        ("members", True),
        ("assets", None),
    ],
)
def test_a_card_that_makes_no_sense_is_not_made(field, value):
    with pytest.raises(ValueError, match=f"{field} is "):
        dataclasses.replace(CARD, **{field: value})


@pytest.mark.parametrize("text", ["", "{}", "[]", "no JSON", "[" * 10**5, '"schema"'])
def test_a_foreign_folder_is_refused(write, text):
    with pytest.raises(InputError, match="a SavedModel, but not one of ours"):
        cards.read(write(text))


@pytest.mark.parametrize(
    "schema, way_out",
    [
        (4, "written by a newer version"),
        (2, "written by an older version, export it again"),
        ("3", "older version"),
        (None, "older version"),
    ],
)
def test_another_schema_is_refused(write, schema, way_out):
    with pytest.raises(InputError, match=f"has schema {schema}, this version reads 3; .*{way_out}"):
        cards.read(write({**CARD.to_json(), "schema": schema}))


@pytest.mark.parametrize(
    "field, value",
    [
        ("recipe", {}),
        ("recipe", None),
        ("modalities", 3),
        ("modalities", ["flair", "pet"]),
        ("label_scheme", "brats1999"),
        ("label_scheme", []),
        ("targets", 1),
        ("stride", 0),
        ("post_processing", {}),
        ("post_processing", None),
        ("train_case_ids", None),
        ("members", "5"),
        ("assets", []),
    ],
)
def test_a_damaged_card_is_refused(write, field, value):
    model = write({**CARD.to_json(), field: value})
    with pytest.raises(InputError, match="model.json: is damaged") as found:
        cards.read(model)
    assert "\n" not in str(found.value)


def test_a_card_without_one_of_its_fields_is_refused(write):
    for name in (field.name for field in dataclasses.fields(ModelCard)):
        said = CARD.to_json()
        del said[name]
        with pytest.raises(InputError, match=f"is damaged .KeyError: '{name}'"):
            cards.read(write(said))
