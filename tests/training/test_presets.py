"""What --preset sets, and how flags, facts and a run's record change it."""

import dataclasses
import json

import pytest

from brats_tfrecord.errors import InputError
from brats_tfrecord.records import manifest as manifests
from brats_tfrecord.training import presets, run_folder
from brats_tfrecord.training.distribution import gpu_list
from brats_tfrecord.training.presets import Facts
from brats_tfrecord.training.train_options import TrainOptions

GB = 10**9
UNET_NN = (32, 64, 128, 256, 320, 320)


@pytest.fixture
def make(dataset, tmp_path, monkeypatch):
    """Function (flags) -> options of a run on six cases in three folds, on a machine with GPUs of
    `make.gpus` bytes each."""

    def make(**flags):
        return presets.train_options(
            **{"data_dir": str(dataset.root), "model_dir": str(tmp_path / "model"), **flags}
        )

    make.gpus = []
    monkeypatch.setattr(
        gpu_list, "memory_bytes", lambda gpus: [] if gpus == "none" else list(make.gpus)
    )
    return make


def test_the_documented_preset_is_the_defaults():
    given = {"data_dir": "data", "model_dir": "model", "epochs": 3}
    for preset in ({}, {"preset": "documented"}):
        assert presets.train_options(**given, **preset) == TrainOptions(**given)


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match=r"--preset=tpu: expected documented\|cpu\|gpu"):
        presets.train_options(data_dir="data", model_dir="model", preset="tpu")


def test_a_preset_sets_what_is_not_given(make):
    """Four cases to train on. An epoch has 96 patches, so 24 of each case; 1500 are 16 epochs."""
    options = make(preset="cpu", patch_size=64, loss="dice")
    assert {name: getattr(options, name) for name in presets.CPU} == {
        **presets.CPU,
        "patch_size": 64,
        "loss": "dice",
    }
    assert (options.patches_per_case, options.epochs, options.validate_every) == (24, 16, 4)
    assert set(options.from_preset) == {
        *presets.CPU, "batch_size", "patches_per_case", "epochs", "warmup_epochs", "validate_every"
    } - {"patch_size", "loss"}  # fmt: skip


def test_every_preset_sets_only_options_that_a_run_must_repeat(make):
    make.gpus = [80 * GB]
    for preset in ("cpu", "gpu"):
        options = make(preset=preset)
        assert set(options.from_preset) - {"epochs"} <= set(
            dataclasses.replace(options, schedule="constant").identity()
        )


def test_a_time_budget_plans_epochs_and_validations_instead(make):
    options = make(preset="cpu", time_budget_minutes=10.0)
    assert not {"epochs", "validate_every"} & set(options.from_preset)
    assert options.patches_per_case == 24
    for name in ("epochs", "validate_every"):
        default = getattr(TrainOptions, name)
        for preset in ({}, {"preset": "cpu"}):
            with pytest.raises(InputError, match=f"--{name}={default}: --time_budget_minutes=10"):
                make(time_budget_minutes=10.0, **{name: default}, **preset)


@pytest.mark.parametrize(
    "facts, batch_size, patch_size, learning_rate",
    [
        (Facts(295, 1, 80 * GB), 2, 128, 3e-4),
        (Facts(295, 4, 80 * GB), 8, 128, 6e-4),
        (Facts(295, 1, 11 * GB), 1, 128, 2.1e-4),
        (Facts(295, 1, 6 * GB), 1, 96, 2.1e-4),
        (Facts(295, 1, 2 * GB), 2, 64, 3e-4),
        (Facts(295, 1, GB // 4), 1, 64, 2.1e-4),
    ],
)
def test_patch_and_batch_follow_the_memory(facts, batch_size, patch_size, learning_rate):
    values = presets.preset_values("gpu", {}, facts)
    assert values["batch_size"] == batch_size
    assert values["patch_size"] == patch_size
    assert values["learning_rate"] == learning_rate


def test_the_memory_of_a_patch():
    """128³ voxels x 32 channels, a quarter as many values on each next level (less at the end),
    16 tensors, twice, two bytes each."""
    by_hand = 128**3 * (32 + 64 / 8 + 128 / 64 + 256 / 512 + 320 / 4096 + 320 / 32768) * 16 * 2 * 2
    assert presets.bytes_per_patch(128, UNET_NN) == int(by_hand)
    assert presets.bytes_per_patch(128, UNET_NN, "float32") == pytest.approx(2 * by_hand, abs=2)
    assert presets.bytes_per_patch(64, UNET_NN) == pytest.approx(by_hand / 8, abs=2)


def test_given_flags_change_what_depends_on_them():
    facts = Facts(295, 1, 11 * GB)
    assert presets.preset_values("gpu", {"patch_size": 64}, facts)["batch_size"] == 2
    assert presets.preset_values("gpu", {"filters": "8,16"}, facts)["batch_size"] == 2
    assert presets.preset_values("gpu", {"precision": "float32"}, facts)["patch_size"] == 96
    assert presets.preset_values("gpu", {"batch_size": 8}, facts)["learning_rate"] == 6e-4
    assert presets.preset_values("gpu", {"epochs": 5}, facts)["warmup_epochs"] == 0.5


@pytest.mark.parametrize(
    "cases, per_case, epochs", [(295, 2, 50), (1000, 1, 100), (10, 50, 50), (5000, 1, 20)]
)
def test_epochs_follow_the_number_of_cases(cases, per_case, epochs):
    """295 x 2 x 50 are 29,500 patches (100 of each case); at least 25,000 and at most 100,000."""
    values = presets.preset_values("gpu", {}, Facts(cases, 1, 80 * GB))
    assert (values["patches_per_case"], values["epochs"]) == (per_case, epochs)


def test_the_gpu_preset_needs_a_gpu(make):
    with pytest.raises(InputError, match="--preset=gpu: nvidia-smi lists no GPU.*--preset=cpu"):
        make(preset="gpu")
    assert make(preset="gpu", gpus="none").batch_size == 1
    assert make(preset="gpu", virtual_devices=2).batch_size == 2


def test_facts_count_training_cases_and_replicas(dataset, monkeypatch):
    monkeypatch.setattr(gpu_list, "memory_bytes", lambda gpus: [8 * GB, 4 * GB])
    given = {"data_dir": str(dataset.root), "model_dir": "model"}
    assert presets.read_facts(given) == Facts(4, 2, 4 * GB)
    assert presets.read_facts({**given, "test_fold": "1"}) == Facts(2, 2, 4 * GB)
    assert presets.read_facts({**given, "validation_fold": "all"}).cases == 4
    assert presets.read_facts({**given, "virtual_devices": 3}) == Facts(4, 3, None)
    cluster = {"worker": ["a:1", "b:1"]}
    task = {"cluster": cluster, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(task))
    assert presets.read_facts({**given, "strategy": "multiworker"}).replicas == 4


def begin(options, dataset):
    """Claims the run's folder, and leaves a result in it."""
    run_folder.claim(options, manifests.load(dataset.root), "float32")
    open(f"{options.model_dir}/history.csv", "w").close()


def test_a_resumed_run_keeps_the_values_of_its_beginning(make, dataset):
    make.gpus = [80 * GB]
    first = make(preset="gpu")
    begin(first, dataset)
    make.gpus = [8 * GB]  # another machine
    assert make(preset="gpu") == first
    make.gpus = []
    again = make(preset="gpu")
    assert again == first
    run_folder.claim(again, manifests.load(dataset.root), "float32")


def test_a_contradiction_is_refused(make, dataset):
    make.gpus = [80 * GB]
    begin(make(preset="gpu", batch_size=4), dataset)
    for flags, message in (
        ({"preset": "gpu"}, "--batch_size was 4, now 2"),
        ({"preset": "gpu", "batch_size": 8}, "--batch_size was 4, now 8"),
        ({"preset": "cpu", "batch_size": 4}, "--augment was full, now light"),
    ):
        with pytest.raises(InputError, match=message):
            run_folder.claim(make(**flags), manifests.load(dataset.root), "float32")


def test_a_run_without_results_is_planned_anew(make, dataset):
    make.gpus = [80 * GB]
    run_folder.claim(make(preset="gpu"), manifests.load(dataset.root), "float32")
    make.gpus = [8 * GB]
    assert make(preset="gpu").batch_size == 1


def test_the_record_of_a_run_without_preset_is_as_before(make, dataset, tmp_path):
    run_folder.claim(make(), manifests.load(dataset.root), "float32")
    run = json.loads((tmp_path / "model/run.json").read_text())
    assert set(run) == {"dataset", "options", "precision"}
    assert "time_budget_minutes" not in run["options"]
