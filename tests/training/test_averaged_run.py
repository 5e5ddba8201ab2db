"""A run with averaged weights validates and exports them, and trains on with the others."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from optimizer_names import parameters

from brats_tfrecord import targets
from brats_tfrecord.training import loop, steps
from brats_tfrecord.training.data import input_pipeline
from brats_tfrecord.training.network import networks
from brats_tfrecord.training.optimization import losses
from brats_tfrecord.training.train_options import TrainOptions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_tracing")]


@pytest.fixture(scope="module")
def averaged(dataset, tmp_path_factory):
    """Three epochs of two batches, an update every batch: (options, result)."""
    chosen = TrainOptions(
        str(dataset.root),
        str(tmp_path_factory.mktemp("models") / "averaged"),
        filters="2,4",
        dropout="0",
        patch_size=8,
        epochs=3,
        learning_rate=0.01,
        precision="float32",
        averaging="ema",
        loss="dice_cross_entropy",
    )
    return chosen, loop.train(chosen)


def column(result, name):
    return np.array([row[name] for row in result.history])


def trained_weights(chosen, result):
    """Weights of the last checkpoint, from which a rerun resumes."""
    network = networks.build_network(result.network)
    tf.train.Checkpoint(model=network.trainer).read(
        f"{chosen.model_dir}/checkpoints/last-00003-000000"
    ).expect_partial()
    return network.model.get_weights()


def test_averages_are_validated_and_do_not_change_the_training(averaged, tmp_path):
    chosen, result = averaged
    plain = loop.train(
        dataclasses.replace(chosen, averaging="none", model_dir=str(tmp_path / "plain"))
    )
    np.testing.assert_allclose(column(result, "loss"), column(plain, "loss"), rtol=1e-5)
    assert (column(result, "val_loss") != column(plain, "val_loss")).all()
    for a, b in zip(
        trained_weights(chosen, result),
        trained_weights(dataclasses.replace(chosen, model_dir=str(tmp_path / "plain")), plain),
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_exported_weights_are_the_validated_ones(averaged, dataset):
    _, result = averaged
    network, kind = networks.build_network(result.network), targets.make_targets("classes", 4)
    network.model.set_weights(result.weights)
    loss = losses.deep_supervision(losses.make_loss("dice_cross_entropy", kind))
    strategy = tf.distribute.get_strategy()
    score = steps.make_eval_step(strategy, network, kind, loss, result.piece)
    cases = input_pipeline.make_eval_dataset(dataset, (0,), modalities=result.modalities)
    slices = tf.zeros(len(dataset.case_ids([0])), tf.int32)
    loss = np.mean([score(case, slices).scores["loss"] for case in cases])
    best = result.history[result.best_epoch - 1]
    np.testing.assert_allclose(loss, best["val_loss"], rtol=1e-6)


def test_without_validation_the_last_averages_are_exported(averaged, tmp_path):
    """A rerun of the finished run returns the same weights."""
    chosen, _ = averaged
    blind = dataclasses.replace(chosen, validation_fold="none", model_dir=str(tmp_path / "blind"))
    result, rerun = loop.train(blind), loop.train(blind)
    for a, b, trained in zip(result.weights, rerun.weights, trained_weights(blind, result)):
        np.testing.assert_array_equal(a, b)
        assert (a != trained).any()


def test_an_interrupted_run_resumes_with_its_averages(averaged, tmp_path):
    chosen, unbroken = averaged
    first = dataclasses.replace(chosen, model_dir=str(tmp_path / "broken"), epochs=1)
    loop.train(first)
    resumed = loop.train(dataclasses.replace(first, epochs=3))
    np.testing.assert_allclose(column(resumed, "val_loss"), column(unbroken, "val_loss"), rtol=1e-5)


@pytest.mark.soak
@pytest.mark.parametrize("optimizer", ["lamb", parameters("ranger")])
def test_all_flags_of_the_optimizer_work_together(averaged, tmp_path, optimizer):
    """Two replicas, in bfloat16."""
    chosen, _ = averaged
    result = loop.train(
        dataclasses.replace(
            chosen,
            model_dir=str(tmp_path / "all"),
            virtual_devices=2,
            precision="mixed_bfloat16",
            optimizer=optimizer,
            weight_decay="0.01",
            schedule="polynomial",
            warmup_epochs=0.5,
            clip_norm=1.0,
            accumulate=2,
            averaging="swa",
            epochs=8,
            validate_every=8,
        )
    )
    assert np.isfinite(column(result, "loss")).all() and result.best_epoch == 8
