import dataclasses

import pytest

from brats_tfrecord.errors import InputError
from brats_tfrecord.training.network import unet
from brats_tfrecord.training.train_options import TrainOptions


def options(**changes):
    return TrainOptions(**{"data_dir": "data", "model_dir": "model", **changes})


def test_every_field_explains_itself_and_its_default_is_among_its_choices():
    for field in dataclasses.fields(TrainOptions):
        assert field.metadata["help"].endswith("."), field.name
        if "choices" in field.metadata:
            assert field.default in field.metadata["choices"]


def test_defaults_are_the_documented_network():
    assert options().filter_counts == unet.FILTERS
    assert options().dropout_rates == unet.DROPOUT
    assert options(filters="4,8,16").dropout_rates == (0.1, 0.1, 0.3, 0.1, 0.1)


def test_weight_decay_is_adamws_alone_unless_given():
    assert [options(optimizer=name).decay_rate for name in ("adam", "adamw", "lamb")] == [
        0,
        0.01,
        0,
    ]
    assert options(optimizer="lamb", weight_decay="0.1").decay_rate == 0.1


def test_lists_are_read():
    chosen = options(modalities="t2,flair", filters="4,8,16", dropout="0.5", test_fold="3")
    assert chosen.modality_names == ("t2", "flair")
    assert chosen.filter_counts == (4, 8, 16)
    assert chosen.dropout_rates == (0.5,) * 5
    assert (chosen.validation_folds, chosen.test_folds) == ((0,), (3,))
    assert options(validation_fold="none").validation_folds == ()


def test_all_folds_in_turn_may_leave_out_a_test_fold():
    assert options(validation_fold="all", test_fold="0").cross_validates
    assert not options(validation_fold="none").cross_validates


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 0}, "--batch_size=0: expected a number from 1 to 4,096"),
        ({"patch_size": -1}, "--patch_size=-1"),
        ({"model_dir": "data/model"}, "--model_dir=data/model: lies within --data_dir=data"),
        ({"patches_per_case": 0}, "--patches_per_case=0: expected a number from 1"),
        ({"augment": "heavy"}, "--augment=heavy: expected none|flips|light|full"),
        ({"cache": "disk"}, "--cache_dir=: expected a folder with --cache=disk"),
        (
            {"cache": "memory", "cache_dir": "scratch"},
            "--cache_dir=scratch: expected .*none otherwise",
        ),
        ({"foreground_fraction": 1.5}, "--foreground_fraction=1.5: expected 0 to 1"),
        ({"learning_rate": float("nan")}, "--learning_rate=nan"),
        ({"optimizer": "rmsprop"}, "--optimizer=rmsprop: expected adam|adamw|sgd|lamb|ranger|novo"),
        ({"weight_decay": "0.1"}, "--weight_decay=0.1: --optimizer=adam takes none; .*adamw"),
        ({"weight_decay": "much"}, "--weight_decay=much: expected auto"),
        ({"optimizer": "sgd", "weight_decay": "-1"}, "--weight_decay=-1: expected auto"),
        ({"clip_norm": -1.0}, "--clip_norm=-1.0: expected 0"),
        ({"accumulate": 0}, "--accumulate=0: expected a number from 1"),
        ({"warmup_epochs": 3.0, "epochs": 3}, "--warmup_epochs=3.0: .*less than --epochs=3"),
        ({"averaging": "swa", "epochs": 7}, "--averaging=swa: .*--epochs=7.*give 8"),
        ({"modalities": "flair,t1c"}, "--modalities=flair,t1c: .*t1,t1ce,t2,flair"),
        ({"modalities": "flair,flair"}, "--modalities"),
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
        ({"test_fold": "0"}, "--test_fold=0: is the validation fold too"),
        ({"gpus": "first"}, "--gpus=first"),
    ],
)
def test_wrong_flags_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        options(**changes)


def test_what_a_rerun_may_change_is_no_part_of_the_identity():
    assert options(epochs=9, gpus="none", virtual_devices=2).identity() == options().identity()
    for made_for_epochs in (
        {"schedule": "cosine"},
        {"schedule": "polynomial"},
        {"averaging": "swa"},
    ):
        assert (
            options(**made_for_epochs, epochs=9).identity() != options(**made_for_epochs).identity()
        )
    assert options(seed=1).identity() != options().identity()
