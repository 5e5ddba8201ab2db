"""Every flag of train.py has an effect: on training here, or in the test that is named for it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord.training import cross_validation, loop
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.train_options import TrainOptions
from brats_tfrecord.training.trainer import Trainer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_tracing")]

LEARNING = {
    "validation_fold": {"validation_fold": "1"},
    "test_fold": {"test_fold": "1"},
    "modalities": {"modalities": "t1,t2"},
    "brain_channel": {"brain_channel": True},
    "patch_size": {"patch_size": 12},
    "foreground_fraction": {"foreground_fraction": 1.0},
    "foreground": {"foreground": "classes"},
    "patches_per_case": {"patches_per_case": 2},
    "augment": {"augment": "none"},
    "modality_dropout": {"modality_dropout": 0.9},
    "batch_size": {"batch_size": 1},
    "epochs": {"epochs": 9},
    "learning_rate": {"learning_rate": 0.02},
    "schedule": {"schedule": "polynomial"},
    "warmup_epochs": {"warmup_epochs": 1.0},
    "optimizer": {"optimizer": "sgd"},
    "weight_decay": {"weight_decay": "0.5"},
    "clip_norm": {"clip_norm": 0.001},
    "accumulate": {"accumulate": 2},
    "averaging": {"averaging": "ema"},
    "targets": {"targets": "regions"},
    "loss": {"loss": "focal"},
    "class_weights": {"class_weights": "balanced"},
    "network": {"network": "unet_nn"},
    "filters": {"filters": "4,8"},
    "first_stride": {"first_stride": 2},
    "dropout": {"dropout": "0.5"},
    "deep_supervision": {"deep_supervision": "on", "filters": "2,4,8"},
    "seed": {"seed": 1},
    "precision": {"precision": "mixed_bfloat16"},
    "virtual_devices": {"virtual_devices": 2},
}
"""Flag -> a change to `BASE` that changes the first training steps."""

BASE = {
    "filters": "2,4",
    "dropout": "0",
    "patch_size": 8,
    "epochs": 8,
    "precision": "float32",
    "schedule": "cosine",
    "optimizer": "adamw",
}

ELSEWHERE = {
    "data_dir": "test_loop.test_a_folder_of_another_run_is_refused_with_all_differences",
    "model_dir": "test_loop.test_a_folder_with_other_files_is_refused",
    "cache": "test_record_reader.test_the_memory_cache_no_longer_needs_the_files",
    "cache_dir": "test_record_reader.test_the_disk_cache_copies_a_shard_once_and_replaces_a_truncated_copy",  # noqa: E501
    "init_from": "test_initial_weights.test_a_run_starts_from_an_exported_model",
    "validate_every": "test_flags.test_epochs_are_validated_as_often_as_asked",
    "xla": "test_flags.test_xla_compiles_the_step",
    "deterministic": "test_devices.test_a_deterministic_run_gives_the_same_bits_twice",
    "checkpoint_minutes": "test_killed.test_a_run_killed_within_an_epoch_resumes_exactly",
    "time_limit_minutes": "test_loop.test_the_time_limit_stops_after_a_step",
    "preset": "test_presets.test_a_preset_sets_what_is_not_given",
    "time_budget_minutes": "test_time_budget.test_the_run_has_as_many_steps_as_fit",
    "profile": "test_profile.test_steps_and_loader_are_timed_and_nothing_is_written",
    "post_processing": "test_exported.test_a_finished_run_is_exported_again",
    "test_time_flips": "test_exported.test_a_finished_run_is_exported_again",
    "gpus": "test_devices.test_a_gpu_that_does_not_exist_is_refused",
    "strategy": "test_multiworker.test_two_processes_train_like_two_replicas",
    "peer_wait_minutes": "test_multiworker.test_the_wait_for_peers_ends_at_a_stop_or_in_time",
}
"""Flag -> the test that shows its effect."""


def test_every_flag_has_a_test():
    flags = {
        field.name
        for field in dataclasses.fields(TrainOptions)
        if field.metadata.get("is_flag", True)
    }
    assert flags == LEARNING.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("flag", ELSEWHERE)
def test_the_test_named_for_a_flag_exists(flag):
    module, name = ELSEWHERE[flag].split(".")
    [path] = Path(__file__).parent.rglob(f"{module}.py")
    assert f"def {name}(" in path.read_text()


def make_trainer(dataset, **changes):
    options = TrainOptions(str(dataset.root), "unused", **{**BASE, **changes})
    strategy = devices.make_strategy("none", options.virtual_devices)
    return Trainer(options, dataset, cross_validation.train_folds(options, dataset), strategy)


def loss_of_step(trainer, batch):
    loss = trainer.train_step(batch).loss
    return float(trainer.strategy.reduce("SUM", loss, axis=None))


def learned(dataset, **changes):
    """Losses, weights and other results of four training steps, to be compared."""
    trainer = make_trainer(dataset, **changes)
    batches, losses = iter(trainer.train_batches()), []
    for _ in range(4):
        batch = next(batches)
        losses.append(loss_of_step(trainer, batch))
    with trainer.updates.averaged():
        weights = [array.sum(dtype=np.float64) for array in trainer.network.trainer.get_weights()]
    return (
        losses,
        weights,
        trainer.updates.learning_rate(),
        trainer.epoch_steps,
        trainer.strategy.num_replicas_in_sync,
        trainer.options.validation_folds,
    )


@pytest.fixture(scope="module")
def usual(dataset):
    return learned(dataset)


@pytest.mark.parametrize("flag", LEARNING)
def test_the_flag_changes_the_training(dataset, usual, flag):
    assert learned(dataset, **LEARNING[flag]) != usual


def test_the_same_flags_give_the_same_training(dataset, usual):
    assert learned(dataset) == usual


def test_epochs_are_validated_as_often_as_asked(dataset, tmp_path):
    result = loop.train(
        TrainOptions(
            str(dataset.root),
            str(tmp_path),
            filters="2,4",
            patch_size=8,
            epochs=3,
            validate_every=2,
        )
    )
    assert [row["val_loss"] is not None for row in result.history] == [False, True, True]


@pytest.mark.parametrize("xla", [False, True])
def test_xla_compiles_the_step(dataset, usual, xla):
    tf.config.run_functions_eagerly(False)
    trainer = make_trainer(dataset, xla=xla)
    batch = next(iter(trainer.train_batches()))
    np.testing.assert_allclose(loss_of_step(trainer, batch), usual[0][0], rtol=1e-5)
    graph = trainer.train_step.get_concrete_function(batch).graph.as_graph_def()
    assert ("_XlaMustCompile" in str(graph)) == xla
    tf.config.run_functions_eagerly(True)
