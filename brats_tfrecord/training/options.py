"""What a training run is asked to do: one frozen dataclass, checked together at construction.

Imports no TensorFlow, so that a command line can show its help at once.
"""

import dataclasses
from dataclasses import dataclass

from brats_tfrecord import spec
from brats_tfrecord.errors import InputError


def _option(default, help_text, **metadata):
    return dataclasses.field(default=default, metadata={"help": help_text, **metadata})


@dataclass(frozen=True)
class TrainOptions:
    """Options of one training run; each field is a flag of `tools/train.py` of the same name.

    A field's metadata hold its "help", where it is limited its "choices", and "may_change" where
    a rerun in the same `model_dir` may give another value.

    Raises:
        InputError: at construction, naming the flag that is wrong.
    """

    data_dir: str = _option(
        dataclasses.MISSING, "Dataset folder made by convert_to_tfrecord.py.", may_change=True
    )
    model_dir: str = _option(
        dataclasses.MISSING,
        "Folder for checkpoints, history and the SavedModel; a rerun of the same command resumes "
        "there.",
        may_change=True,
    )
    validation_fold: str = _option(
        "0",
        "Fold that selects the best epoch, or none: then the last epoch counts as the best.",
    )
    test_fold: str = _option(
        "none", "Fold kept out of training and selection alike, or none."
    )
    modalities: str = _option(
        "flair,t1ce,t2", "Modalities the network sees, in the order of its channels."
    )
    patch_size: int = _option(
        128,
        "Edge in voxels of the random patches trained on (a shorter axis of the crop is taken "
        "whole); 0 trains on whole crops.",
    )
    foreground_fraction: float = _option(
        0.33,
        "Share of the patches that are centred on tumour, from 0 to 1; the rest lie anywhere.",
    )
    batch_size: int = _option(
        2, "Examples a step, over all replicas together; must divide by their number."
    )
    epochs: int = _option(
        30,
        "Passes over the training cases. A finished run continues when rerun with more, unless "
        "its schedule is made for their number.",
        may_change=True,
    )
    learning_rate: float = _option(1e-3, "Step size of the optimizer, at the start.")
    schedule: str = _option(
        "constant",
        "Course of the learning rate: constant, or cosine from its start to 0 at the last step.",
        choices=("constant", "cosine"),
    )
    optimizer: str = _option(
        "adam",
        "adam from Keras, or lamb (You et al. 2020) from TensorFlow Addons.",
        choices=("adam", "lamb"),
    )
    loss: str = _option(
        "cross_entropy",
        "Categorical cross-entropy, or its sum with soft Dice over the tumour classes.",
        choices=("cross_entropy", "dice_cross_entropy"),
    )
    filters: str = _option(
        "16,32,64,128,256", "Channels of each level of the U-Net, finest first."
    )
    dropout: str = _option(
        "auto",
        "Dropout rate of each block of the U-Net (down, bottleneck, up), or one for all. auto is "
        "the documented 0.1,0.1,0.2,0.2,0.3,0.2,0.2,0.1,0.1, cut to the depth of --filters.",
    )
    validate_every: int = _option(
        1, "Epochs from one validation (and drawing of history.png) to the next; the last epoch "
        "always has one.",
    )
    seed: int = _option(0, "Determines initial weights, order, patches and flips.")
    precision: str = _option(
        "auto",
        "Arithmetic of the layers; auto takes mixed_float16 on GPUs of compute capability 7.0 or "
        "more, mixed_bfloat16 on CPUs with AVX512-BF16 or AMX, else float32.",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    gpus: str = _option(
        "all", "GPUs to train on: all, none, or their numbers such as 0,1.", may_change=True
    )
    virtual_devices: int = _option(
        0,
        "Splits the CPU into this many replicas instead of using GPUs, to try a distributed run; "
        "0 does not.",
        may_change=True,
    )

    def __post_init__(self):
        for name in ("batch_size", "epochs", "validate_every"):
            _check(getattr(self, name) >= 1, self, name, "1 or more")
        for name in ("patch_size", "virtual_devices"):
            _check(getattr(self, name) >= 0, self, name, "0 or more")
        _check(0 <= self.seed < 2**31, self, "seed", "0 to 2147483647")
        _check(0 <= self.foreground_fraction <= 1, self, "foreground_fraction", "0 to 1")
        _check(0 < self.learning_rate < float("inf"), self, "learning_rate", "a number above 0")
        for field in dataclasses.fields(self):
            choices = field.metadata.get("choices")
            if choices:
                _check(getattr(self, field.name) in choices, self, field.name, "|".join(choices))
        self._check_modalities()
        self._check_network()
        self._check_folds()
        _check(
            self.gpus in ("all", "none") or _integers(self.gpus) is not None,
            self, "gpus", "all, none or numbers such as 0,1",
        )

    @property
    def modality_names(self):
        """Canonical names of the network's channels, in order."""
        return tuple(name.strip() for name in self.modalities.split(","))

    @property
    def filter_counts(self):
        """Channels of each level of the U-Net."""
        return tuple(_integers(self.filters))

    @property
    def dropout_rates(self):
        """One rate for each block of the U-Net."""
        if self.dropout == "auto":
            down = [0.1 if level < 2 else 0.2 for level in range(len(self.filter_counts) - 1)]
            return (*down, 0.3, *reversed(down))
        rates = _floats(self.dropout)
        blocks = 2 * len(self.filter_counts) - 1
        return tuple(rates) if len(rates) > 1 else tuple(rates) * blocks

    @property
    def validation_folds(self):
        """The validation fold as a tuple, empty for none."""
        return _folds(self.validation_fold)

    @property
    def test_folds(self):
        """The test fold as a tuple, empty for none."""
        return _folds(self.test_fold)

    def identity(self):
        """What must be the same for a rerun to continue a run: flag -> value."""
        fixed = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if not field.metadata.get("may_change")
        }
        return fixed | {"epochs": self.epochs} if self.schedule == "cosine" else fixed

    def _check_modalities(self):
        names = self.modality_names
        good = len(set(names)) == len(names) and set(names) <= set(spec.MODALITIES)
        _check(good, self, "modalities", f"distinct names out of {','.join(spec.MODALITIES)}")

    def _check_network(self):
        counts = _integers(self.filters)
        good = counts is not None and len(counts) >= 2 and min(counts) >= 1
        _check(good, self, "filters", "two or more channel counts such as 16,32,64")
        rates = [] if self.dropout == "auto" else _floats(self.dropout)
        blocks = 2 * len(counts) - 1
        good = rates is not None and len(rates) in (0, 1, blocks) and all(0 <= r < 1 for r in rates)
        _check(
            good, self, "dropout",
            f"auto, one rate in [0, 1) or {blocks}, one for each block of --filters={self.filters}",
        )

    def _check_folds(self):
        for name in ("validation_fold", "test_fold"):
            value = getattr(self, name)
            good = value == "none" or (value.isascii() and value.isdigit())
            _check(good, self, name, "a fold's number or none")
        if self.validation_folds and self.validation_folds == self.test_folds:
            raise InputError(
                f"--test_fold={self.test_fold}: is the validation fold too; a test fold must "
                "take no part in selection, name another or none"
            )


def _check(good, options, name, expected):
    if not good:
        raise InputError(f"--{name}={getattr(options, name)}: expected {expected}")


def _folds(value):
    return () if value == "none" else (int(value),)


def _integers(text):
    """The whole numbers of a comma-separated list, or None if one is none."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        return None


def _floats(text):
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return None
