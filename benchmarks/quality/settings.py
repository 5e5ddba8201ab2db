"""What a comparison is: its settings, its contestants and its trainings."""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from brats_tfrecord import files
from brats_tfrecord.errors import InputError
from brats_tfrecord.training.train_options import PRESETS

OURS = "ours"
NETWORKS = ("unet", "dynunet", "segresnet")
VARIANTS = ("regions", "classes")
NNUNET = "nnunet"
FILE_NAME = "benchmark.json"
EXPECTED = f"ours[:PRESET], {', '.join(NETWORKS)} (each [:regions] or :classes) or {NNUNET}"


@dataclass(frozen=True)
class Settings:
    """What all trainings of a comparison share. JSON types only.

    Attributes:
        input_dirs: absolute paths of the cohorts; empty for phantoms.
        phantoms: number of phantoms; 0 with `input_dirs`.
        modalities: comma-separated, in the order of the network's channels.
        folds: number of folds.
        minutes: wall time of each training, in minutes.
        cores: processors of each training.
        parallel: trainings at a time.
        flags: more flags of tools/train.py for our side.
        convert_flags: more flags of tools/convert_to_tfrecord.py.
        patch_size: edge of the training patches and windows of the MONAI networks, in voxels.
        learning_rate: highest learning rate of the MONAI networks.
        rules: name of the rule set of the metrics.
    """

    input_dirs: tuple[str, ...]
    phantoms: int
    modalities: str
    folds: int
    minutes: float
    cores: int
    parallel: int
    flags: str
    convert_flags: str
    patch_size: int
    learning_rate: float
    rules: str

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Canonical names of the network's channels, in order."""
        return tuple(self.modalities.split(","))

    @classmethod
    def from_json(cls, value):
        """Restores settings from their JSON value."""
        return cls(**{**value, "input_dirs": tuple(value["input_dirs"])})


@dataclass(frozen=True)
class Training:
    """One training: a contestant on all folds but one, which it is scored on."""

    contestant: str
    seed: int
    fold: int

    @property
    def name(self) -> str:
        """A file name for its results."""
        return f"{self.contestant.replace(':', '-')}-seed{self.seed}-fold{self.fold}"


def plan(contestants, seeds, folds) -> list[Training]:
    """Lists the trainings. Contestants take turns, so that a drift of the machine hits all."""
    return [
        Training(contestant, seed, fold)
        for seed in seeds
        for fold in range(folds)
        for contestant in contestants
    ]


def claim(root: Path, settings: Settings) -> None:
    """Records the settings in a folder, or compares them with those of its earlier trainings.

    Raises:
        InputError: the folder holds trainings with other settings.
    """
    path = root / FILE_NAME
    now = {**dataclasses.asdict(settings), "input_dirs": list(settings.input_dirs)}
    if path.exists():
        before = files.read_json(path)
        for name, value in now.items():
            if before.get(name) != value:
                raise InputError(
                    f"--output_dir={root}: holds trainings with {name}={before.get(name)}, not "
                    f"{value}; give the same value, or choose another folder"
                )
    files.write_json(path, now)


def default_contestants() -> list[str]:
    """Lists our best preset for CPUs, the MONAI networks and, if it is installed, nnU-Net."""
    return [f"{OURS}:cpu", *NETWORKS, *([NNUNET] if is_installed("nnunetv2") else [])]


def check_contestants(names) -> None:
    """Raises InputError for an unknown or repeated contestant."""
    if len(set(names)) < len(names):
        raise InputError(f"--contestants={','.join(names)}: names a contestant twice")
    for name in names:
        kind, _, variant = name.partition(":")
        known = (
            (kind == OURS and variant in ("", *PRESETS))
            or (kind in NETWORKS and variant in ("", *VARIANTS))
            or name == NNUNET
        )
        if not known:
            raise InputError(f"--contestants={name}: expected {EXPECTED}")


def missing_packages(names) -> list[str]:
    """Lists the packages that contestants need and that are not installed."""
    kinds = {name.partition(":")[0] for name in names}
    needed = ["torch", "monai"] if kinds & set(NETWORKS) else []
    needed += ["nnunetv2"] if NNUNET in kinds else []
    return [package for package in needed if not is_installed(package)]


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is not."""
    return importlib.util.find_spec(package) is not None
