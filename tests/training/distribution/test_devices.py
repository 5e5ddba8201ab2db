import itertools
import os
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config

from brats_tfrecord.errors import InputError
from brats_tfrecord.training import loop
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.train_options import TrainOptions
from brats_tfrecord.training.trainer import Trainer


def test_without_gpus_the_cpu_holds_one_replica_or_the_virtual_ones():
    assert devices.make_strategy().num_replicas_in_sync == 1
    strategy = devices.make_strategy(virtual_devices=2)
    assert strategy.num_replicas_in_sync == 2
    assert {device[-5:] for device in strategy.extended.worker_devices} == {"CPU:0", "CPU:1"}


def test_a_batch_that_cannot_be_split_evenly_is_refused():
    strategy = devices.make_strategy(virtual_devices=2)
    devices.require_divisible_batch(6, strategy)
    with pytest.raises(InputError, match="--batch_size=3.*2 replicas"):
        devices.require_divisible_batch(3, strategy)


def test_a_gpu_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="--gpus=0,9"):
        devices.make_strategy(gpus="0,9")


def test_more_virtual_devices_than_tensorflow_started_with_are_refused():
    tf.constant(1)  # TensorFlow has started
    with pytest.raises(InputError, match="--virtual_devices"):
        devices.make_strategy(virtual_devices=5)


@pytest.mark.parametrize(
    "flags, policy",
    [
        ({"avx512f", "avx512_bf16"}, "mixed_bfloat16"),
        ({"amx_bf16"}, "mixed_bfloat16"),
        ({"avx2", "avx512f"}, "float32"),
        (set(), "float32"),
    ],
)
def test_auto_precision_on_cpus(monkeypatch, flags, policy):
    monkeypatch.setattr(devices, "cpu_flags", lambda: flags)
    assert devices.resolve_precision("auto", devices.make_strategy()) == policy
    assert devices.resolve_precision("mixed_float16", devices.make_strategy()) == "mixed_float16"


@pytest.mark.parametrize(
    "flags, emulated",
    [
        ({"avx512_bf16"}, ["mixed_float16"]),
        ({"avx2"}, ["mixed_bfloat16", "mixed_float16"]),
        (set(), ["mixed_float16"]),
    ],
)
def test_a_cpu_emulates_the_precisions_it_lacks_and_a_gpu_none(monkeypatch, flags, emulated):
    monkeypatch.setattr(devices, "cpu_flags", lambda: flags)
    policies, cpu = ("float32", "mixed_bfloat16", "mixed_float16"), devices.make_strategy()
    assert [name for name in policies if devices.emulates(name, cpu)] == emulated
    assert not any(devices.emulates(name, strategy_of("GPU:0")) for name in policies)


@pytest.mark.parametrize(
    "capabilities, policy",
    [
        ([(8, 0), (9, 0)], "mixed_bfloat16"),
        ([(8, 0), (7, 5)], "mixed_float16"),
        ([(7, 0)], "mixed_float16"),
        ([(8, 0), (6, 1)], "float32"),
        ([None], "float32"),
    ],
)
def test_auto_precision_suits_the_oldest_gpu(show_gpus, capabilities, policy):
    show_gpus([{"compute_capability": x} if x else {} for x in capabilities])
    assert devices.resolve_precision("auto", strategy_of("GPU:0", "GPU:1")) == policy


def test_devices_are_named(show_gpus, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    assert devices.describe(devices.make_strategy()) == "CPU (3 cores)"
    assert devices.describe(strategy_of("CPU:0", replicas=2)) == "2 workers with CPU (3 cores) each"
    show_gpus([{"device_name": "NVIDIA A100-SXM4-80GB"}] * 2)
    gpus = ("GPU:0", "GPU:1")
    assert devices.describe(strategy_of(*gpus)) == "2 x NVIDIA A100-SXM4-80GB"
    assert devices.describe(strategy_of(*gpus, replicas=6)) == (
        "3 workers with 2 x NVIDIA A100-SXM4-80GB each"
    )
    show_gpus([{"device_name": "Tesla T4"}, {}, {"device_name": "Tesla T4"}])
    assert devices.describe(strategy_of("GPU:0")) == "2 x Tesla T4, 1 x GPU"


@pytest.mark.slow
@pytest.mark.usefixtures("without_tracing")
def test_a_deterministic_run_gives_the_same_bits_twice(dataset):
    def weights(**flags):
        options = TrainOptions(
            str(dataset.root), "unused", filters="2,4", patch_size=8, precision="float32", **flags
        )
        trainer = Trainer(options, *loop.prepare(options))
        for batch in itertools.islice(trainer.train_batches(), 2):
            trainer.train_step(batch)
        return trainer.network.trainer.get_weights()

    weights()
    assert not config.is_op_determinism_enabled()
    try:
        first, second = weights(deterministic=True), weights(deterministic=True)
        assert config.is_op_determinism_enabled()
    finally:
        config.disable_op_determinism()
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def strategy_of(*names, replicas=None):
    """A stand-in for a strategy over devices of the given names."""
    worker_devices = tuple(f"/job:localhost/replica:0/task:0/device:{name}" for name in names)
    return types.SimpleNamespace(
        num_replicas_in_sync=replicas or len(names),
        extended=types.SimpleNamespace(worker_devices=worker_devices),
    )
