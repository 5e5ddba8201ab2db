"""What makes training options wrong, each with the flag's name, and how lists are spelled."""

import dataclasses
import math

from brats_tfrecord import files, spec
from brats_tfrecord.errors import InputError

_COUNTS = {
    "batch_size": 4096,
    "epochs": 10**6,
    "validate_every": 10**6,
    "accumulate": 10**6,
    "patches_per_case": 10_000,
}


def check(options):
    """Raises `InputError` naming the first flag of a `TrainOptions` that is wrong."""
    for name, most in _COUNTS.items():
        good = 1 <= getattr(options, name) <= most
        _check(good, options, name, f"a number from 1 to {most:,}")
    for name in (
        "patch_size",
        "virtual_devices",
        "checkpoint_minutes",
        "time_limit_minutes",
        "peer_wait_minutes",
    ):
        good = 0 <= getattr(options, name) < math.inf
        _check(good, options, name, "a finite number, 0 or more")
    _check(0 <= options.seed < 2**31, options, "seed", "0 to 2147483647")
    _check(0 <= options.foreground_fraction <= 1, options, "foreground_fraction", "0 to 1")
    _check(0 < options.learning_rate < math.inf, options, "learning_rate", "a number above 0")
    for field in dataclasses.fields(options):
        choices = field.metadata.get("choices")
        if choices:
            good = getattr(options, field.name) in choices
            _check(good, options, field.name, "|".join(choices))
    files.require_outside("--model_dir", options.model_dir, "--data_dir", options.data_dir)
    _check_modalities(options)
    _check_network(options)
    _check_xla(options)
    _check_optimizer(options)
    _check_folds(options)
    if options.virtual_devices and options.strategy == "multiworker":
        raise InputError(
            f"--virtual_devices={options.virtual_devices}: splits one process, but "
            "--strategy=multiworker is of several; start more of them instead"
        )
    if options.virtual_devices and options.gpus not in ("all", "none"):
        raise InputError(
            f"--gpus={options.gpus}: --virtual_devices splits the CPU and uses no "
            "GPU; give one of the two"
        )
    if options.validation_fold == "all" and options.profile:
        raise InputError("--validation_fold=all: --profile times one run; name one fold or none")
    if options.validation_fold == "all" and options.strategy == "multiworker":
        raise InputError(
            "--validation_fold=all: TensorFlow makes one multiworker strategy a "
            "process; run --strategy=multiworker with one fold at a time"
        )
    _check(
        (options.cache == "disk") == bool(options.cache_dir),
        options,
        "cache_dir",
        "a folder with --cache=disk, and none otherwise",
    )
    good = options.gpus in ("all", "none") or integers(options.gpus) is not None
    _check(good, options, "gpus", "all, none or numbers such as 0,1")


def integers(text):
    """The whole numbers of a comma-separated list, or None if one is none."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        return None


def floats(text):
    """The numbers of a comma-separated list, or None if one is none."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return None


def folds(value):
    """The fold that a flag names, as a tuple; empty for none."""
    return () if value == "none" else (int(value),)


def _check_modalities(options):
    names = options.modality_names
    good = len(set(names)) == len(names) and set(names) <= set(spec.MODALITIES)
    _check(good, options, "modalities", f"distinct names out of {','.join(spec.MODALITIES)}")


def _check_network(options):
    counts = options.filter_counts if options.filters == "auto" else integers(options.filters)
    good = counts is not None and len(counts) >= 2 and min(counts) >= 1
    _check(good, options, "filters", "auto, or two or more channel counts such as 16,32,64")
    rates = [] if options.dropout == "auto" else floats(options.dropout)
    blocks = 2 * len(counts) - 1
    good = rates is not None and len(rates) in (0, 1, blocks) and all(0 <= r < 1 for r in rates)
    _check(
        good,
        options,
        "dropout",
        f"auto, one rate in [0, 1) or {blocks}, one for each block of "
        f"--filters={','.join(map(str, counts))}",
    )
    if options.class_weights != "none" and options.loss in ("dice", "tversky"):
        raise InputError(
            f"--class_weights={options.class_weights}: --loss={options.loss} has "
            "nothing to weigh; give a loss with cross-entropy, or focal"
        )


def _check_xla(options):
    if options.xla and options.loss.startswith("batch_"):
        raise InputError(
            f"--xla: cannot compile --loss={options.loss}, whose sums cross replicas; "
            f"give --loss={options.loss.removeprefix('batch_')}"
        )


def _check_optimizer(options):
    _check(0 <= options.clip_norm < math.inf, options, "clip_norm", "0, or a number above")
    _check(
        0 <= options.warmup_epochs < options.epochs,
        options,
        "warmup_epochs",
        f"0 or more, and less than --epochs={options.epochs}",
    )
    decays = [0.0] if options.weight_decay == "auto" else floats(options.weight_decay)
    good = decays is not None and len(decays) == 1 and 0 <= decays[0] < math.inf
    _check(good, options, "weight_decay", "auto, 0 or a number above")
    if options.optimizer == "adam" and decays[0]:
        raise InputError(
            f"--weight_decay={options.weight_decay}: --optimizer=adam takes none; "
            "give --optimizer=adamw, which is adam with weight decay"
        )
    if options.averaging == "swa" and options.epochs < 8:
        raise InputError(
            f"--averaging=swa: takes one state an epoch over the last quarter of "
            f"--epochs={options.epochs}, fewer than two; give 8 epochs or more, or "
            "--averaging=ema"
        )


def _check_folds(options):
    for name in ("validation_fold", "test_fold"):
        value = getattr(options, name)
        words = ("none", "all") if name == "validation_fold" else ("none",)
        good = value in words or (value.isascii() and value.isdigit())
        _check(good, options, name, " or ".join(["a fold's number", *words]))
    if options.validation_fold == options.test_fold != "none":
        raise InputError(
            f"--test_fold={options.test_fold}: is the validation fold too; a test fold must "
            "take no part in selection, name another or none"
        )


def _check(good, options, name, expected):
    if not good:
        raise InputError(f"--{name}={getattr(options, name)}: expected {expected}")
