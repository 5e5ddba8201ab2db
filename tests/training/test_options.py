import dataclasses

import pytest

from brats_tfrecord.errors import InputError
from brats_tfrecord.training import unet
from brats_tfrecord.training.options import TrainOptions


def options(**changes):
    return TrainOptions(data_dir="data", model_dir="model", **changes)


def test_every_field_explains_itself_and_its_default_is_among_its_choices():
    for field in dataclasses.fields(TrainOptions):
        assert field.metadata["help"].endswith("."), field.name
        if "choices" in field.metadata:
            assert field.default in field.metadata["choices"]


def test_defaults_are_the_documented_network():
    assert options().filter_counts == unet.FILTERS
    assert options().dropout_rates == unet.DROPOUT
    assert options(filters="4,8,16").dropout_rates == (0.1, 0.1, 0.3, 0.1, 0.1)


def test_lists_are_read():
    chosen = options(modalities="t2,flair", filters="4,8,16", dropout="0.5", test_fold="3")
    assert chosen.modality_names == ("t2", "flair")
    assert chosen.filter_counts == (4, 8, 16)
    assert chosen.dropout_rates == (0.5,) * 5
    assert (chosen.validation_folds, chosen.test_folds) == ((0,), (3,))
    assert options(validation_fold="none").validation_folds == ()


@pytest.mark.parametrize("changes, message", [
    ({"batch_size": 0}, "--batch_size=0: expected 1 or more"),
    ({"patch_size": -1}, "--patch_size=-1"),
    ({"foreground_fraction": 1.5}, "--foreground_fraction=1.5: expected 0 to 1"),
    ({"learning_rate": float("nan")}, "--learning_rate=nan"),
    ({"optimizer": "sgd"}, "--optimizer=sgd: expected adam|lamb"),
    ({"modalities": "flair,t1c"}, "--modalities=flair,t1c: .*t1,t1ce,t2,flair"),
    ({"modalities": "flair,flair"}, "--modalities"),
    ({"filters": "16"}, "--filters=16"),
    ({"filters": "16,x"}, "--filters=16,x"),
    ({"filters": "8,16", "dropout": "0.1,0.2"}, "--dropout=.*or 3"),
    ({"dropout": ""}, "--dropout=: expected auto"),
    ({"dropout": "1"}, "--dropout=1"),
    ({"validation_fold": "-1"}, "--validation_fold=-1"),
    ({"test_fold": "0"}, "--test_fold=0: is the validation fold too"),
    ({"gpus": "first"}, "--gpus=first"),
])
def test_wrong_flags_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        options(**changes)


def test_what_a_rerun_may_change_is_no_part_of_the_identity():
    assert options(epochs=9, gpus="none", virtual_devices=2).identity() == options().identity()
    assert options(schedule="cosine", epochs=9).identity() != options(schedule="cosine").identity()
    assert options(seed=1).identity() != options().identity()
