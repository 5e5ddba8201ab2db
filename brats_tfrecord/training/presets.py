"""Recipes by name: what --preset sets, and the options that follow. Imports no TensorFlow.

To change a recipe, edit `CPU` or `GPU`; values that depend on the dataset or the machine are
computed by `_cpu` and `_gpu` below.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brats_tfrecord.errors import InputError
from brats_tfrecord.records import manifest as manifests
from brats_tfrecord.training import cross_validation, option_checks, run_file
from brats_tfrecord.training.distribution import cluster, gpu_list
from brats_tfrecord.training.network import network_options
from brats_tfrecord.training.train_options import TrainOptions

CPU: dict[str, Any] = {
    "network": "unet_res",
    "filters": "16,32,64,128,256",
    "first_stride": 2,
    "brain_channel": True,
    "targets": "regions",
    "loss": "batch_dice_cross_entropy",
    "averaging": "ema",
    "schedule": "cosine",
    "learning_rate": 2e-3,
    "clip_norm": 12.0,
    "dropout": "0",
    "patch_size": 96,
    "foreground": "classes",
    "foreground_fraction": 0.5,
}
"""Values of --preset=cpu that depend on nothing."""

CPU_BATCH = 1
"""Patches per step and replica."""
CPU_PATCHES = 1500
"""Patches that the network sees in a run without a time budget: 12 minutes on two cores."""
CPU_EPOCH_PATCHES = 96
"""Least patches of an epoch: after each the state is saved, which takes about a second."""
CPU_VALIDATIONS = 4

GPU: dict[str, Any] = {
    "network": "unet_nn",
    "targets": "regions",
    "loss": "batch_dice_cross_entropy",
    "averaging": "ema",
    "schedule": "cosine",
    "clip_norm": 12.0,
    "augment": "full",
    "foreground": "classes",
    "foreground_fraction": 0.5,
}
"""Values of --preset=gpu that depend on nothing."""

GPU_PATCH_SIZES = (128, 96, 64)
"""Edges of patches; the first of which one fits into the memory is taken."""
GPU_MOST_PER_REPLICA = 2
GPU_LEARNING_RATE = 3e-4
"""For a batch of two patches; larger batches take the root of their ratio (see docs/train.md)."""
GPU_PATCHES_PER_CASE, GPU_FEWEST_PATCHES, GPU_MOST_PATCHES = 100, 25_000, 100_000
"""Patches that the network sees in a run. nnU-Net's schedule has 500,000, whatever the cohort
(Isensee et al. 2021: 1000 epochs of 250 batches of two). NVIDIA's entry to BraTS 2021 was within
.01 of its best Dice after some 20,000 (Futrega et al. 2021)."""
GPU_EPOCH_PATCHES = 500
GPU_VALIDATIONS = 25

USED_MEMORY = 0.8
"""Share of a GPU's memory for patches; the rest is for weights, cuDNN and fragmentation."""
KEPT_TENSORS, PEAK = 16, 2
"""Estimated, not measured on a GPU: a level of a network keeps about this many tensors of its
channels for the backward pass, and the peak, with gradients and cuDNN's workspace, is this many
times as much."""


@dataclass(frozen=True)
class Facts:
    """What a preset needs to know of dataset and machine.

    Attributes:
        cases: number of training cases.
        replicas: devices that share a batch, over all machines.
        gpu_bytes: memory of the smallest GPU; None without a GPU.
    """

    cases: int
    replicas: int = 1
    gpu_bytes: int | None = None


def train_options(**given: Any) -> TrainOptions:
    """Makes the options of a training from the given ones, a preset and the defaults.

    Given values come first, then those of `preset`, then the defaults. A run that is resumed takes
    the preset's values from its run.json, also on another machine.

    Args:
        given: fields of `TrainOptions`, `data_dir` and `model_dir` among them.

    Raises:
        InputError: as `TrainOptions`; the dataset cannot be read; or --preset=gpu without a GPU.

    Example:
        >>> train_options(data_dir="dataset", model_dir="model", preset="cpu",
        ...               time_budget_minutes=20)
    """
    preset = given.get("preset", "")
    if preset not in _MAKERS:
        _require_planned_alone(given)
        return TrainOptions(**given)
    values = run_file.preset_values(given.get("model_dir", ""), preset)
    if values is None:
        values = preset_values(preset, given, read_facts(given))
    if given.get("time_budget_minutes"):
        _require_planned_alone(given)
        values = {name: x for name, x in values.items() if name not in _PLANNED}
    values = {name: value for name, value in values.items() if name not in given}
    return TrainOptions(**given, **values, from_preset=tuple(sorted(values)))


def read_facts(given: Mapping[str, Any]) -> Facts:
    """Reads the dataset and asks for the GPUs.

    Args:
        given: as in `train_options`.

    Raises:
        InputError: the dataset or the environment variable TF_CONFIG cannot be read.
    """
    names = ("data_dir", "model_dir", "validation_fold", "test_fold")
    options = TrainOptions(**{name: given[name] for name in names if name in given})
    dataset = manifests.load(Path(options.data_dir))
    runs = (
        cross_validation.cross_validation_runs(options, dataset)
        if options.cross_validates
        else [options]
    )
    cases = max(len(dataset.case_ids(cross_validation.train_folds(run, dataset))) for run in runs)
    machines = (
        len(cluster.from_environment().names) if given.get("strategy") == "multiworker" else 1
    )
    virtual = given.get("virtual_devices", 0)
    memory = [] if virtual else gpu_list.memory_bytes(given.get("gpus", "all"))
    return Facts(cases, machines * (virtual or len(memory) or 1), min(memory, default=None))


def preset_values(preset: str, given: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """Returns what a preset sets: option -> value.

    Args:
        preset: "cpu" or "gpu".
        given: options that were given; what depends on them follows them.
        facts: of dataset and machine.
    """
    return _MAKERS[preset](given, facts)


def bytes_per_patch(size: int, filters: tuple[int, ...], precision: str = "auto") -> int:
    """Estimates the GPU memory that training takes for each patch of a batch.

    Level l has size³ / 8^l voxels and filters[l] channels, and keeps `KEPT_TENSORS` of them.

    Args:
        size: edge of the patch in voxels.
        filters: channels of each level, finest first.
        precision: "float32" takes 4 bytes a value; others 2.

    Returns:
        Bytes: 5.7e9 for a patch of 128 voxels and the filters of unet_nn.
    """
    values = sum(size**3 / 8**level * channels for level, channels in enumerate(filters))
    return int(values * KEPT_TENSORS * PEAK * (4 if precision == "float32" else 2))


_PLANNED = ("epochs", "validate_every")
"""Options that --time_budget_minutes replaces."""


def _require_planned_alone(given):
    """Refuses --epochs beside a time budget even where it has the value of the default."""
    for name in _PLANNED if given.get("time_budget_minutes") else ():
        if name in given:
            raise option_checks.planned_error(name, given[name], given["time_budget_minutes"])


def _cpu(given, facts):
    return {
        **CPU,
        "batch_size": CPU_BATCH * facts.replicas,
        **_epochs(given, facts, CPU_PATCHES, CPU_EPOCH_PATCHES, CPU_VALIDATIONS),
    }


def _gpu(given, facts):
    if facts.gpu_bytes is None and given.get("gpus") != "none" and not given.get("virtual_devices"):
        raise InputError(
            "--preset=gpu: nvidia-smi lists no GPU on this machine; give --preset=cpu, or "
            "--gpus=none to use this preset on the CPU"
        )
    size, per_replica = _patches_that_fit(given, facts)
    batch = given.get("batch_size", per_replica * facts.replicas)
    seen = min(GPU_MOST_PATCHES, max(GPU_FEWEST_PATCHES, GPU_PATCHES_PER_CASE * facts.cases))
    return {
        **GPU,
        "patch_size": size,
        "batch_size": batch,
        "learning_rate": float(f"{GPU_LEARNING_RATE * math.sqrt(batch / 2):.2g}"),
        **_epochs(given, facts, seen, GPU_EPOCH_PATCHES, GPU_VALIDATIONS),
    }


def _patches_that_fit(given, facts):
    """The edge of the patches, and how many of them each replica takes."""
    sizes = (given["patch_size"],) if given.get("patch_size") else GPU_PATCH_SIZES
    if facts.gpu_bytes is None:
        return sizes[0], 1
    network = network_options.NETWORKS.get(given.get("network", GPU["network"]))
    parsed = option_checks.integers(given.get("filters", "auto"))
    filters = tuple(parsed or (network.filters if network else ()))
    for size in sizes:
        need = bytes_per_patch(size, filters, given.get("precision", "auto"))
        fitting = int(USED_MEMORY * facts.gpu_bytes / max(1, need))
        if fitting:
            break
    return size, max(1, min(GPU_MOST_PER_REPLICA, fitting))


def _epochs(given, facts, seen, epoch_patches, validations):
    """Epochs in which the network sees `seen` patches, and what depends on their number."""
    per_case = given.get("patches_per_case") or math.ceil(epoch_patches / facts.cases)
    epochs = given.get("epochs") or math.ceil(seen / (per_case * facts.cases))
    return {
        "patches_per_case": per_case,
        "epochs": epochs,
        "warmup_epochs": min(1.0, epochs / 10),
        "validate_every": max(1, epochs // validations),
    }


_MAKERS = {"cpu": _cpu, "gpu": _gpu}
