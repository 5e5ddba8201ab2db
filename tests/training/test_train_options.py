import dataclasses

import pytest

from brats_tfrecord.errors import InputError
from brats_tfrecord.training.data import augment
from brats_tfrecord.training.optimization import addons
from brats_tfrecord.training.train_options import TrainOptions


def options(**changes):
    return TrainOptions(**{"data_dir": "data", "model_dir": "model", **changes})


def test_every_option_has_a_help_text_and_a_valid_default():
    for field in dataclasses.fields(TrainOptions):
        assert field.metadata["help"].endswith("."), field.name
        if "choices" in field.metadata:
            assert field.default in field.metadata["choices"]


def test_the_default_is_the_documented_network():
    assert options().filter_counts == (16, 32, 64, 128, 256)
    assert options().dropout_rates == (0.1, 0.1, 0.2, 0.2, 0.3, 0.2, 0.2, 0.1, 0.1)
    assert options(filters="4,8,16").dropout_rates == (0.1, 0.1, 0.3, 0.1, 0.1)


def test_only_adamw_has_weight_decay_by_default():
    assert [options(optimizer=name).decay_rate for name in ("adam", "adamw", "lamb")] == [
        0,
        0.01,
        0,
    ]
    assert options(optimizer="lamb", weight_decay="0.1").decay_rate == 0.1


def test_lists_are_parsed():
    chosen = options(modalities="t2,flair", filters="4,8,16", dropout="0.5", test_fold="3")
    assert chosen.modality_names == ("t2", "flair")
    assert chosen.filter_counts == (4, 8, 16)
    assert chosen.dropout_rates == (0.5,) * 5
    assert (chosen.validation_folds, chosen.test_folds) == ((0,), (3,))
    assert options(validation_fold="none").validation_folds == ()


def test_the_brain_channel_follows_the_modalities():
    assert options().input_names == ("flair", "t1ce", "t2")
    assert options(modalities="t2,t1", brain_channel=True).input_names == ("t2", "t1", "brain")


def test_modality_dropout_replaces_the_probability_of_the_level(monkeypatch):
    assert options(augment="full").augmentation is augment.LEVELS["full"]
    dropping = options(augment="full", modality_dropout=0.25).augmentation
    assert dropping == dataclasses.replace(augment.LEVELS["full"], channel_dropout=0.25)
    level = dataclasses.replace(augment.LEVELS["light"], channel_dropout=0.05)
    monkeypatch.setitem(augment.LEVELS, "light", level)
    assert options().augmentation.channel_dropout == 0.05
    assert options(modality_dropout=0.25).augmentation.channel_dropout == 0.25


def test_a_cross_validation_may_leave_out_a_test_fold():
    assert options(validation_fold="all", test_fold="0").cross_validates
    assert not options(validation_fold="none").cross_validates


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 0}, "--batch_size=0: expected a number from 1 to 4,096"),
        ({"patch_size": -1}, "--patch_size=-1"),
        ({"model_dir": "data/model"}, "--model_dir=data/model: lies within --data_dir=data"),
        ({"patches_per_case": 0}, "--patches_per_case=0: expected a number from 1"),
        ({"augment": "heavy"}, "--augment=heavy: expected none|flips|light|full|strong"),
        ({"cache": "disk"}, "--cache_dir=: expected a folder with --cache=disk"),
        (
            {"cache": "memory", "cache_dir": "scratch"},
            "--cache_dir=scratch: expected .*none otherwise",
        ),
        ({"foreground_fraction": 1.5}, "--foreground_fraction=1.5: expected 0 to 1"),
        ({"learning_rate": float("nan")}, "--learning_rate=nan"),
        ({"optimizer": "rmsprop"}, "--optimizer=rmsprop: expected adam|adamw|sgd|lamb|ranger|novo"),
        ({"weight_decay": "0.1"}, "--weight_decay=0.1: --optimizer=adam has no weight decay"),
        ({"weight_decay": "much"}, "--weight_decay=much: expected auto"),
        ({"optimizer": "sgd", "weight_decay": "-1"}, "--weight_decay=-1: expected auto"),
        ({"clip_norm": -1.0}, "--clip_norm=-1.0: expected 0"),
        ({"accumulate": 0}, "--accumulate=0: expected a number from 1"),
        ({"warmup_epochs": 3.0, "epochs": 3}, "--warmup_epochs=3.0: .*less than --epochs=3"),
        ({"averaging": "swa", "epochs": 7}, "--averaging=swa: .*--epochs=7.*give 8"),
        ({"modalities": "flair,t1c"}, "--modalities=flair,t1c: .*t1,t1ce,t2,flair"),
        ({"modalities": "flair,flair"}, "--modalities"),
        ({"modality_dropout": 1.0}, "--modality_dropout=1.0: expected 0 or more, and less than 1"),
        ({"modality_dropout": -0.1}, "--modality_dropout=-0.1: expected"),
        ({"modality_dropout": float("nan")}, "--modality_dropout=nan: expected"),
        (
            {"modality_dropout": 0.3, "modalities": "t1ce"},
            "--modality_dropout=0.3: --modalities=t1ce is a single modality, .*give two or more",
        ),
        ({"filters": "16"}, "--filters=16"),
        ({"filters": "16,x"}, "--filters=16,x"),
        ({"filters": "8,16", "dropout": "0.1,0.2"}, "--dropout=.*or 3"),
        ({"dropout": ""}, "--dropout=: expected auto"),
        ({"dropout": "1"}, "--dropout=1"),
        (
            {"validation_fold": "-1"},
            "--validation_fold=-1: expected a fold's number or none or all",
        ),
        ({"test_fold": "all"}, "--test_fold=all: expected a fold's number or none"),
        ({"test_fold": "0"}, "--test_fold=0: is also the validation fold"),
        ({"gpus": "first"}, "--gpus=first"),
    ],
)
def test_invalid_flags_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        options(**changes)


@pytest.mark.parametrize("name", ["ranger", "novograd"])
def test_optimizers_of_addons_are_refused_where_there_are_none(monkeypatch, name):
    monkeypatch.setattr(addons, "are_installed", lambda: False)
    with pytest.raises(InputError, match=f"--optimizer={name}: .*Addons.*give .*or lamb"):
        options(optimizer=name)
    assert options(optimizer="lamb").optimizer == "lamb"


def test_the_identity_leaves_out_options_that_a_rerun_may_change():
    assert options(epochs=9, gpus="none", virtual_devices=2).identity() == options().identity()
    for depends_on_epochs in (
        {"schedule": "cosine"},
        {"schedule": "polynomial"},
        {"averaging": "swa"},
    ):
        assert (
            options(**depends_on_epochs, epochs=9).identity()
            != options(**depends_on_epochs).identity()
        )
    assert options(seed=1).identity() != options().identity()
