import pytest

from brats_tfrecord.training.distribution import gpu_list

LISTING = """0, GPU-aaaa, 81559
1, GPU-bbbb, 40960
2, GPU-cccc, 24576
"""
A, B, C = (mib * 2**20 for mib in (81559, 40960, 24576))


@pytest.mark.parametrize(
    "gpus, environ, expected",
    [
        ("all", {}, [A, B, C]),
        ("none", {}, []),
        ("2,0", {}, [C, A]),
        ("9", {}, []),  # refused later, where the devices are made
        ("all", {"CUDA_VISIBLE_DEVICES": "1,2"}, [B, C]),
        ("1", {"CUDA_VISIBLE_DEVICES": "1,2"}, [C]),
        ("all", {"CUDA_VISIBLE_DEVICES": "GPU-cc"}, [C]),
        ("all", {"CUDA_VISIBLE_DEVICES": ""}, []),
    ],
)
def test_memory_of_the_gpus_that_training_would_use(gpus, environ, expected):
    assert gpu_list.memory_bytes(gpus, environ, LISTING) == expected


@pytest.mark.parametrize("listing", ["", "no devices were found", "0, GPU-aaaa, [N/A]\n"])
def test_no_list_is_no_gpu(listing):
    assert gpu_list.memory_bytes("all", {}, listing) == []


def test_a_machine_without_nvidia_smi_has_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_list.memory_bytes("all", {}) == []
