"""The model card: fields, round trip through JSON, and invalid or damaged cards."""

import dataclasses
import json

import pytest

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.pieces import Piece
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.missing_modalities import MissingModalities
from brats_tfrecord.serving.postprocess import PostProcessing
from brats_tfrecord.serving.recognition import Identity, Recognition

CARD = ModelCard(
    Recipe(crop_shape=(18, 20, 14)),
    ("t1ce", "flair"),
    "brats2024",
    "regions",
    Piece((96, 64, 80), 16),
    "f" * 64,
    ("A_001",),
    ("A_002",),
    {"epochs": 3},
    PostProcessing(50, (0, 20, 0)),
    flips=True,
    members=5,
    assets={"a": "0" * 64},
    identities={
        "A_001": Identity("A", {"t1ce": "1" * 64}),
        "A_002": Identity("B", {"t1ce": "2" * 64, "flair": "3" * 64}),
    },
)


@pytest.fixture
def write(tmp_path):
    """Writes a model folder whose card is a text or JSON value; returns the folder."""

    def run(card):
        (tmp_path / "saved_model.pb").touch()
        text = card if isinstance(card, str) else json.dumps(card)
        files.write_text(tmp_path / "assets" / "model.json", text)
        return tmp_path

    return run


def test_reading_a_written_card_returns_an_equal_card(write):
    model = write(CARD.to_json())
    assert cards.read(model) == CARD
    assert cards.content_digest(cards.read_json(model)) == cards.content_digest(CARD.to_json())


def test_a_card_of_an_earlier_version_has_no_brain_channel(write):
    value = CARD.to_json()
    del value["brain_channel"]
    model = write(value)
    assert cards.read(model) == CARD and not CARD.brain_channel
    assert cards.content_digest(cards.read_json(model)) == cards.content_digest(value)


def test_the_brain_channel_is_the_last_of_the_networks_input(write):
    card = dataclasses.replace(CARD, brain_channel=True)
    assert CARD.input_names == ("t1ce", "flair")
    assert card.input_names == ("t1ce", "flair", "brain")
    assert cards.read(write(card.to_json())) == card


@pytest.mark.parametrize("network, caveats", [("unet", 0), ("unet_nn", 1)])
def test_a_card_of_schema_3_is_read_and_its_digest_stays_valid(write, network, caveats):
    """It says how the old model predicts; instance norm was not trained on what it sees."""
    card = dataclasses.replace(CARD, training={"options": {"network": network}})
    value = {**card.to_json(), "schema": 3, "stride": 16, "whole_voxels": 192**3}
    del value["piece"], value["identities"]
    model = write(value)
    old = cards.read(model)
    piece = Piece((128, 128, 128), 16, 192**3)
    assert old == dataclasses.replace(card, piece=piece, identities={})
    assert cards.content_digest(cards.read_json(model)) == cards.content_digest(value)
    assert len(old.caveats) == caveats and not card.caveats


def test_the_json_lists_the_names_of_classes_and_channels():
    value = CARD.to_json()
    assert value["schema"] == 4
    assert value["piece"] == {"shape": [96, 64, 80], "stride": 16, "whole_voxels": 0}
    assert value["classes"] == ["background", "NCR/NET", "ED", "ET", "RC"]
    assert value["channels"] == ["WT", "TC", "ET", "RC"]


def test_cases_are_recognised_by_id_patient_and_voxels():
    assert CARD.recognise("A_001", None, {}) == Recognition("train", "case id")
    assert CARD.recognise("X", "B", {}) == Recognition("select", "patient")
    assert CARD.recognise("X", "X", {"flair": "3" * 64}) == Recognition("select", "same scan")
    assert CARD.recognise("X", "X", {"flair": "4" * 64}) == Recognition("unseen")
    assert not CARD.recognises_by_id_only


def test_an_older_card_recognises_by_id_only(write):
    value = {**CARD.to_json(), "schema": 3, "stride": 16, "whole_voxels": 192**3}
    del value["identities"], value["piece"]
    card = cards.read(write(value))
    assert card.recognises_by_id_only and card.identities == {}
    assert card.recognise("A_002", "B", {}) == Recognition("select", "case id")
    assert card.recognise("X", "B", {"flair": "3" * 64}) == Recognition("unseen")


def test_the_digest_covers_every_field_but_the_assets():
    digest = cards.content_digest(CARD.to_json())
    assert cards.content_digest(dataclasses.replace(CARD, assets={}).to_json()) == digest
    for change in (
        {"flips": False},
        {"training": {"epochs": 4}},
        {"recipe": Recipe()},
        {"post_processing": PostProcessing()},
        {"piece": Piece((96, 64, 80), 8)},
        {"brain_channel": True},
    ):
        changed = dataclasses.replace(CARD, **change)
        assert cards.content_digest(changed.to_json()) != digest


@pytest.mark.parametrize(
    "field, value",
    [
        ("modalities", ()),
        ("modalities", ("flair", "pet")),
        ("label_scheme", "brats1999"),
        ("targets", "voxels"),
        ("piece", 16),
        ("flips", 1),
        ("members", 0),
        ("members", True),
        ("assets", None),
        ("brain_channel", 1),
    ],
)
def test_an_invalid_field_is_rejected_at_construction(field, value):
    with pytest.raises(ValueError, match=f"{field} is "):
        dataclasses.replace(CARD, **{field: value})


@pytest.mark.parametrize("text", ["", "{}", "[]", "no JSON", "[" * 10**5, '"schema"'])
def test_a_card_that_cannot_be_parsed_is_refused(write, text):
    with pytest.raises(InputError, match="was not exported by train.py, or its assets/model.json"):
        cards.read(write(text))


@pytest.mark.parametrize(
    "schema, way_out",
    [
        (5, "written by a newer version"),
        (2, "written by an older version, export the model again"),
        ("3", "older version"),
        (None, "older version"),
    ],
)
def test_another_schema_is_refused(write, schema, way_out):
    message = f"has schema {schema}, this version reads 3 and 4; .*{way_out}"
    with pytest.raises(InputError, match=message):
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
        ("piece", None),
        ("piece", {"shape": [96, 64], "stride": 16, "whole_voxels": 0}),
        ("piece", {"shape": [96, 64, 80], "stride": 0, "whole_voxels": 0}),
        ("post_processing", {}),
        ("post_processing", None),
        ("train_case_ids", None),
        ("members", "5"),
        ("brain_channel", "yes"),
        ("assets", []),
        ("identities", None),
        ("identities", {"A_001": {}}),
        ("identities", {"A_001": {"patient_id": 1, "voxels": {}}}),
        ("identities", {"A_001": {"patient_id": "A", "voxels": {"t1": "short"}}}),
        ("identities", {"A_001": {"patient_id": "A", "voxels": {"t1": 7}}}),
    ],
)
def test_a_damaged_card_is_refused(write, field, value):
    model = write({**CARD.to_json(), field: value})
    with pytest.raises(InputError, match="model.json: is damaged") as error:
        cards.read(model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        field.name
        for field in dataclasses.fields(ModelCard)
        if field.name not in ("brain_channel", "missing")
    ],
)
def test_a_missing_field_is_refused(write, name):
    value = CARD.to_json()
    del value[name]
    with pytest.raises(InputError, match=f"is damaged .KeyError: '{name}'"):
        cards.read(write(value))


def test_a_card_of_a_model_of_complete_cases_is_that_of_earlier_versions(write):
    assert "missing" not in CARD.to_json()
    missing = MissingModalities(0.3, {"": 1, "flair": 2}, {"flair": 1})
    card = dataclasses.replace(CARD, missing=missing)
    model = write(card.to_json())
    assert cards.read(model) == card
    assert cards.content_digest(cards.read_json(model)) == cards.content_digest(card.to_json())


@pytest.mark.parametrize(
    "missing", [[], {"dropout": 2}, {"train": {"flair": 0}}, {"other": 1}, "t"]
)
def test_a_damaged_entry_about_missing_modalities_is_refused(write, missing):
    with pytest.raises(InputError, match="model.json: is damaged"):
        cards.read(write({**CARD.to_json(), "missing": missing}))
