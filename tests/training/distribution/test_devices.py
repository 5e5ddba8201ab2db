import types

import pytest
import tensorflow as tf

from brats_tfrecord.errors import InputError
from brats_tfrecord.training.distribution import devices


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
    gpu = types.SimpleNamespace(extended=types.SimpleNamespace(worker_devices=("/device:GPU:0",)))
    assert not any(devices.emulates(name, gpu) for name in policies)


@pytest.mark.parametrize(
    "capabilities, policy", [([(8, 0), (7, 0)], "mixed_float16"), ([(8, 0), (6, 1)], "float32")]
)
def test_auto_precision_suits_the_oldest_gpu(monkeypatch, capabilities, policy):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: capabilities)
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": gpu}
    )
    extended = types.SimpleNamespace(worker_devices=("/device:GPU:0", "/device:GPU:1"))
    assert devices.resolve_precision("auto", types.SimpleNamespace(extended=extended)) == policy
