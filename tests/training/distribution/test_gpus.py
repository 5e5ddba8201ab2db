import sys

import pytest
import tensorflow as tf

from brats_tfrecord.errors import InputError
from brats_tfrecord.training.distribution import gpus

LOG_OF_2_15 = """\
2025-01-01 00:00:00.000001: I external/local_tsl/tsl/cuda/cudart_stub.cc:31] Could not find cuda \
drivers on your machine, GPU will not be used.
2025-01-01 00:00:00.000002: E external/local_xla/xla/stream_executor/cuda/cuda_dnn.cc:9261] Unable \
to register cuDNN factory: Attempting to register factory for plugin cuDNN
2025-01-01 00:00:00.000003: I external/local_tsl/tsl/cuda/cudart_stub.cc:31] Could not find cuda \
drivers on your machine, GPU will not be used.
"""
LOG_OF_2_21 = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
E0000 00:00:1795735791.532387   25668 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA \
error: Failed call to cuInit: UNKNOWN ERROR (303)
I0000 00:00:1795735796.059579   25668 service.cc:153] XLA service 0x564e initialized for Host
"""
LOG_WITHOUT_CUDNN = """\
2025-01-01 00:00:00.000001: W tensorflow/dso_loader.cc:60] Could not load dynamic library \
'libcudnn.so.8'; dlerror: libcudnn.so.8: cannot open shared object file
2025-01-01 00:00:00.000002: W tensorflow/core/common_runtime/gpu/gpu_device.cc:2256] Cannot dlopen \
some GPU libraries. Please make sure
"""


@pytest.mark.parametrize(
    "log, reason",
    [
        (LOG_OF_2_15, "Could not find cuda drivers on your machine, GPU will not be used"),
        (
            LOG_OF_2_21,
            "failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR "
            "(303)",
        ),
        (
            LOG_WITHOUT_CUDNN,
            "Could not load dynamic library 'libcudnn.so.8'; dlerror: libcudnn.so.8: cannot open "
            "shared object file; Cannot dlopen some GPU libraries. Please make sure",
        ),
        ("", ""),
    ],
)
def test_the_reason_is_read_from_the_log(log, reason):
    assert gpus.reason_in(log) == reason


def test_gpus_are_chosen_by_number(show_gpus):
    show_gpus([{}] * 3)
    assert gpus.choose("all") == [0, 1, 2]
    assert gpus.choose("2,0") == [2, 0]
    assert gpus.choose("none") == []
    for wrong in ("0,0", "3"):
        with pytest.raises(InputError, match=f"--gpus={wrong}: this machine shows GPUs 0 to 2"):
            gpus.choose(wrong)


def test_driver_files_are_found_unless_the_gpus_are_hidden(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus.driver_files(tmp_path) == []
    for name in ("dev/nvidiactl", "dev/nvidia0", "proc/driver/nvidia/gpus/0000:07:00.0"):
        (tmp_path / name).mkdir(parents=True)
    found = [str(path.relative_to(tmp_path)) for path in gpus.driver_files(tmp_path)]
    assert found == ["dev/nvidia0", "proc/driver/nvidia/gpus/0000:07:00.0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.driver_files(tmp_path) == []


@pytest.mark.parametrize("flag", ["all", "0"])
def test_gpus_that_tensorflow_cannot_use_stop_the_run(tmp_path, monkeypatch, flag):
    """A stand-in for Python writes the log of a TensorFlow that does not find CUDA."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncat >&2 <<'E'\n{LOG_OF_2_15}E\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(gpus, "driver_files", lambda: [tmp_path / "dev/nvidia0"])
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(InputError) as caught:
        gpus.choose(flag)
    message = str(caught.value)
    assert message.startswith(f"--gpus={flag}: this machine has a GPU ({tmp_path}/dev/nvidia0)")
    assert "cannot use it: Could not find cuda drivers on your machine" in message
    assert "pip install 'brats-tfrecord[gpu]'" in message and "--gpus=none" in message
    assert gpus.choose("none") == []
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(InputError, match="TensorFlow gives no reason"):
        gpus.choose(flag)
