"""Checks of the training options, and parsing of the lists among them."""

import dataclasses
import math
from typing import Any

from brats_tfrecord import files, spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.training.network import network_options
from brats_tfrecord.training.optimization import addons

MOST_EPOCHS = 10**6
"""Most epochs of a run."""

MOST_MINUTES = 366 * 24 * 60
"""Longest time budget."""

_LARGEST = {
    "batch_size": 4096,
    "epochs": MOST_EPOCHS,
    "validate_every": 10**6,
    "accumulate": 10**6,
    "patches_per_case": 10_000,
}
"""Largest value of each option that counts something, from 1."""


def check(options: Any) -> None:
    """Checks all options of a run.

    Args:
        options: `TrainOptions`, which calls this function at construction.

    Raises:
        InputError: names the first flag that is wrong.
    """
    _check_numbers(options)
    for field in dataclasses.fields(options):
        choices = field.metadata.get("choices")
        if choices:
            is_valid = getattr(options, field.name) in choices
            _require(is_valid, options, field.name, "|".join(choices))
    files.require_outside("--model_dir", options.model_dir, "--data_dir", options.data_dir)
    _check_modalities(options)
    _check_network(options)
    _check_loss(options)
    _check_time_budget(options)
    _check_optimizer(options)
    _check_folds(options)
    _check_devices(options)
    _require(
        (options.cache == "disk") == bool(options.cache_dir),
        options,
        "cache_dir",
        "a folder with --cache=disk, and none otherwise",
    )


def integers(text: str) -> list[int] | None:
    """Parses a comma-separated list of whole numbers; None if it is malformed."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        return None


def floats(text: str) -> list[float] | None:
    """Parses a comma-separated list of numbers; None if it is malformed."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return None


def folds(value: str) -> tuple[int, ...]:
    """Parses a flag that names a fold; returns an empty tuple for "none"."""
    return () if value == "none" else (int(value),)


def planned_error(name: str, value: object, minutes: float) -> InputError:
    """Makes the error of an option that a time budget replaces."""
    return InputError(
        f"--{name}={value}: --time_budget_minutes={minutes:g} plans epochs and validations; give "
        "one of the two"
    )


def _check_numbers(options):
    for name, largest in _LARGEST.items():
        is_valid = 1 <= getattr(options, name) <= largest
        _require(is_valid, options, name, f"a number from 1 to {largest:,}")
    for name in (
        "patch_size",
        "virtual_devices",
        "checkpoint_minutes",
        "time_limit_minutes",
        "time_budget_minutes",
        "peer_wait_minutes",
    ):
        is_valid = 0 <= getattr(options, name) < math.inf
        _require(is_valid, options, name, "a finite number, 0 or more")
    is_valid = options.time_budget_minutes <= MOST_MINUTES
    _require(is_valid, options, "time_budget_minutes", f"at most {MOST_MINUTES:,}, one year")
    _require(0 <= options.seed < 2**31, options, "seed", "0 to 2147483647")
    _require(0 <= options.foreground_fraction <= 1, options, "foreground_fraction", "0 to 1")
    _require(0 < options.learning_rate < math.inf, options, "learning_rate", "a number above 0")


def _check_modalities(options):
    names = options.modality_names
    is_valid = len(set(names)) == len(names) and set(names) <= set(spec.MODALITIES)
    _require(is_valid, options, "modalities", f"distinct names out of {','.join(spec.MODALITIES)}")
    dropout = options.modality_dropout
    _require(0 <= dropout < 1, options, "modality_dropout", "0 or more, and less than 1")
    if dropout and len(names) == 1:
        raise InputError(
            f"--modality_dropout={dropout}: --modalities={options.modalities} is a single "
            "modality, which must stay; give two or more --modalities, or no --modality_dropout"
        )


def _check_network(options):
    is_auto = options.filters == "auto"
    counts = options.filter_counts if is_auto else integers(options.filters) or []
    is_valid = len(counts) >= 2 and min(counts) >= 1
    _require(is_valid, options, "filters", "auto, or two or more channel counts such as 16,32,64")
    rates = [0.0] if options.dropout == "auto" else floats(options.dropout) or []
    blocks = 2 * len(counts) - 1
    is_valid = len(rates) in (1, blocks) and all(0 <= rate < 1 for rate in rates)
    _require(
        is_valid,
        options,
        "dropout",
        f"auto, one rate in [0, 1) or {blocks}, one for each block of "
        f"--filters={','.join(map(str, counts))}",
    )
    strides = network_options.FIRST_STRIDES
    _require(options.first_stride in strides, options, "first_stride", "1 or 2")
    most = network_options.most_coarse_outputs(counts, options.first_stride)
    numbers = [str(number) for number in range(1, most + 1)]
    _require(
        options.deep_supervision in ("auto", "on", "off", *numbers),
        options,
        "deep_supervision",
        "auto, on, off"
        + (f" or a number of coarser outputs from 1 to {most}" if most else "")
        + f" with --filters={','.join(map(str, counts))}"
        + ("" if most else ", whose levels are too few for coarser outputs"),
    )


def _check_loss(options):
    if options.class_weights != "none" and options.loss in ("dice", "tversky"):
        raise InputError(
            f"--class_weights={options.class_weights}: --loss={options.loss} has no class "
            "weights; give a loss with cross-entropy, or focal"
        )
    if options.xla and options.loss.startswith("batch_"):
        raise InputError(
            f"--xla: cannot compile --loss={options.loss}, whose sums cross replicas; "
            f"give --loss={options.loss.removeprefix('batch_')}"
        )


def _check_optimizer(options):
    addons.require_for(options.optimizer)
    _require(0 <= options.clip_norm < math.inf, options, "clip_norm", "0, or a number above")
    most = math.inf if options.has_time_budget else options.epochs
    expected = "0 or more" + ("" if options.has_time_budget else f", and less than --epochs={most}")
    _require(0 <= options.warmup_epochs < most, options, "warmup_epochs", expected)
    decays = [0.0] if options.weight_decay == "auto" else floats(options.weight_decay) or []
    is_valid = len(decays) == 1 and 0 <= decays[0] < math.inf
    _require(is_valid, options, "weight_decay", "auto, 0 or a number above")
    if options.optimizer == "adam" and decays[0]:
        raise InputError(
            f"--weight_decay={options.weight_decay}: --optimizer=adam has no weight decay; "
            "give --optimizer=adamw, which is adam with weight decay"
        )
    if options.averaging == "swa" and options.epochs < 8:
        raise InputError(
            f"--averaging=swa: averages one state per epoch of the last quarter of "
            f"--epochs={options.epochs}, which are fewer than two; give 8 epochs or more, or "
            "--averaging=ema"
        )


def _check_time_budget(options):
    if not options.has_time_budget:
        return
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    for name in ("epochs", "validate_every"):
        value = getattr(options, name)
        if value != defaults[name]:
            raise planned_error(name, value, options.time_budget_minutes)
    if options.averaging == "swa":
        raise InputError(
            "--averaging=swa: averages over the last quarter of --epochs, which "
            "--time_budget_minutes does not know in advance; give --averaging=ema"
        )


def _check_folds(options):
    for name in ("validation_fold", "test_fold"):
        value = getattr(options, name)
        words = ("none", "all") if name == "validation_fold" else ("none",)
        is_valid = value in words or (value.isascii() and value.isdigit())
        _require(is_valid, options, name, " or ".join(["a fold's number", *words]))
    if options.validation_fold == options.test_fold != "none":
        raise InputError(
            f"--test_fold={options.test_fold}: is also the validation fold; a test fold must "
            "not take part in selection; give another fold, or none"
        )
    if options.validation_fold == "all" and options.profile:
        raise InputError("--validation_fold=all: --profile times one run; give one fold, or none")
    if options.validation_fold == "all" and options.strategy == "multiworker":
        raise InputError(
            "--validation_fold=all: TensorFlow allows one multiworker strategy per "
            "process; run --strategy=multiworker with one fold at a time"
        )


def _check_devices(options):
    if options.virtual_devices and options.strategy == "multiworker":
        raise InputError(
            f"--virtual_devices={options.virtual_devices}: splits one process, but "
            "--strategy=multiworker uses several; start more processes instead"
        )
    if options.virtual_devices and options.gpus not in ("all", "none"):
        raise InputError(
            f"--gpus={options.gpus}: --virtual_devices splits the CPU and uses no "
            "GPU; give one of the two"
        )
    is_valid = options.gpus in ("all", "none") or integers(options.gpus) is not None
    _require(is_valid, options, "gpus", "all, none or numbers such as 0,1")


def _require(is_valid, options, name, expected):
    if not is_valid:
        raise InputError(f"--{name}={getattr(options, name)}: expected {expected}")
