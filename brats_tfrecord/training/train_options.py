"""What a training run is asked to do: one frozen dataclass, checked together at construction.

Imports no TensorFlow, so that a command line can show its help at once.
"""

import dataclasses
from dataclasses import dataclass

from brats_tfrecord.training import option_checks
from brats_tfrecord.training.data import augment
from brats_tfrecord.training.network import network_options


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
        "Fold that selects the best epoch, or none: then the last epoch counts as the best; or "
        "all, cross-validation: each fold in turn, one run after the other in MODEL_DIR/fold0, "
        "fold1, ..., and a table of them all.",
    )
    test_fold: str = _option("none", "Fold kept out of training and selection alike, or none.")
    modalities: str = _option(
        "flair,t1ce,t2", "Modalities the network sees, in the order of its channels."
    )
    patch_size: int = _option(
        128,
        "Edge in voxels of the random patches trained on (a shorter axis of the crop is taken "
        "whole); 0 trains on whole crops.",
    )
    foreground_fraction: float = _option(
        0.33, "Share of the patches that are centred on tumour, from 0 to 1; the rest lie anywhere."
    )
    patches_per_case: int = _option(
        1,
        "Patches an epoch takes of every case, mixed among the others' patches. Each is read by "
        "itself, so small patches cost little: give 4 or more where --patch_size is small.",
    )
    augment: str = _option(
        "light",
        "What happens to the patches: none; flips, of each axis; light, also scale and shift of "
        "each modality's intensity, which costs next to nothing; full, also quarter turns, and "
        "now and then rotation, zoom, gamma, noise, blur and low resolution: for runs of hundreds "
        "of epochs, about a quarter of a core-second a patch of 128.",
        choices=tuple(augment.LEVELS),
    )
    cache: str = _option(
        "none",
        "Where records are kept once read: none leaves it to the system; memory keeps them in the "
        "process, 27 MB a case of 144x144x144; disk copies the shards into --cache_dir, for "
        "datasets on a slow network.",
        choices=("none", "memory", "disk"),
        may_change=True,
    )
    cache_dir: str = _option(
        "", "Folder on a local disk for --cache=disk, used again by later runs.", may_change=True
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
    learning_rate: float = _option(
        1e-3,
        "Step size of the optimizer at its highest, before --schedule lowers it. 1e-3 suits adam, "
        "adamw and ranger; start sgd, lamb and novograd at 1e-2.",
    )
    schedule: str = _option(
        "constant",
        "Course of the learning rate after the warm-up: constant, to try things out and to add "
        "epochs later; cosine or polynomial (power 0.9, nnU-Net's), which fall to 0 at the last "
        "step and end in a better model, for runs whose --epochs are settled.",
        choices=("constant", "cosine", "polynomial"),
    )
    warmup_epochs: float = _option(
        0.0,
        "Epochs, or a part of one, over which the learning rate first grows from 0. Take 1 to 5 "
        "where the loss jumps at the start: large batches, high learning rates, lamb.",
    )
    optimizer: str = _option(
        "adam",
        "How gradients become steps. From Keras: adam, the safe choice; adamw, adam with "
        "--weight_decay, for long runs on few cases; sgd, Nesterov momentum 0.99, nnU-Net's "
        "choice, slower and often better after hundreds of epochs. From TensorFlow Addons: lamb, "
        "for batches of dozens on many GPUs; ranger, rectified Adam with lookahead, which needs "
        "no warm-up; novograd, which keeps one second moment a layer and so saves memory.",
        choices=("adam", "adamw", "sgd", "lamb", "ranger", "novograd"),
    )
    weight_decay: str = _option(
        "auto",
        "Share of every weight, times the learning rate, that each update takes off: less "
        "overfitting, less capacity. auto is 0.01 for adamw and 0 for the others; adam takes none.",
    )
    clip_norm: float = _option(
        0.0,
        "Scales gradients down to this length, all weights together, where they are longer; 0 "
        "does not. Give it (nnU-Net: 12) if single batches throw training back.",
    )
    accumulate: int = _option(
        1,
        "Batches an update: their gradients are averaged, as of one batch that large, for GPUs "
        "too small for it. Learning rates are those of the large batch.",
    )
    averaging: str = _option(
        "none",
        "Weights to validate and export in place of the last step's, while these go on training: "
        "ema, a moving average over the last tenth of the updates (at most 1000), evens out the "
        "last steps of any run; swa, stochastic weight averaging, the mean of one state an epoch "
        "over the last quarter of --epochs, goes with a constant, rather high learning rate.",
        choices=("none", "ema", "swa"),
    )
    targets: str = _option(
        "classes",
        "What the network's outputs are: classes, one softmax over background and tumour classes; "
        "regions, a sigmoid each for WT, TC and ET, which are what is scored, as the winners of "
        "BraTS do.",
        choices=("classes", "regions"),
    )
    loss: str = _option(
        "cross_entropy",
        "What is minimised: cross_entropy; dice, soft Dice of each patch; dice_cross_entropy, "
        "their sum, nnU-Net's choice and a good one; batch_dice_cross_entropy, with Dice over the "
        "whole batch, for small patches that often miss a class; focal, cross-entropy that "
        "dwells on hard voxels; tversky, Dice that costs misses more than false alarms.",
        choices=(
            "cross_entropy",
            "dice",
            "dice_cross_entropy",
            "batch_dice_cross_entropy",
            "focal",
            "tversky",
        ),
    )
    class_weights: str = _option(
        "none",
        "none, or balanced: cross-entropy and focal loss weigh rare classes more, by the voxel "
        "counts of the training cases.",
        choices=("none", "balanced"),
    )
    network: str = _option(
        "unet",
        "unet, the documented 3-D U-Net; or unet_nn, one with nnU-Net's habits: instance norm, "
        "leaky ReLU, strided convolutions, deep supervision, twice the filters and more levels.",
        choices=tuple(network_options.NETWORKS),
    )
    filters: str = _option(
        "auto",
        "Channels of each level of the network, finest first; auto is 16,32,64,128,256 "
        "for unet and 32,64,128,256,320,320 for unet_nn.",
    )
    dropout: str = _option(
        "auto",
        "Dropout rate of each block of the network (down, bottleneck, up), or one for all. auto "
        "is none for unet_nn, and for unet the documented 0.1,0.1,0.2,0.2,0.3,0.2,0.2,0.1,0.1, "
        "cut to the depth of --filters.",
    )
    deep_supervision: str = _option(
        "auto",
        "on also takes the loss of coarser outputs, at half the weight a level (Lee et al. 2015): "
        "steadier training of deep networks; auto is on for unet_nn, off for unet.",
        choices=("auto", "on", "off"),
    )
    validate_every: int = _option(
        1,
        "Epochs from one validation (and drawing of history.png) to the next; the last epoch "
        "always has one.",
    )
    seed: int = _option(0, "Determines initial weights, order, patches and augmentation.")
    precision: str = _option(
        "auto",
        "Arithmetic of the layers; auto takes mixed_float16 on GPUs of compute capability 7.0 or "
        "more, mixed_bfloat16 on CPUs with AVX512-BF16 or AMX, else float32.",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    xla: bool = _option(
        False,
        "Compiles the step with XLA: faster on GPUs after a long first step; on a CPU this "
        "network becomes ten times slower.",
        may_change=True,
    )
    checkpoint_minutes: float = _option(
        10.0,
        "Minutes from one saved state to the next; one is saved after every epoch too, and when "
        "a run is told to stop. A run that is killed goes on from the last. 0 saves every step.",
        may_change=True,
    )
    time_limit_minutes: float = _option(
        0.0,
        "Saves and stops, with exit code 75, at the first step after so many minutes: give a "
        "little less than the batch system does. 0 is no limit.",
        may_change=True,
    )
    profile: bool = _option(
        False,
        "Trains nothing: times steps with real input, steps with one batch repeated, and the "
        "loader alone, prints the table and leaves --model_dir as it is.",
        may_change=True,
    )
    post_processing: str = _option(
        "auto",
        "What the exported model corrects in its segmentations. auto tries, on the validation "
        "cases, thresholds for faint enhancing tumour and for small components, and keeps what "
        "raises their mean Dice by 0.001 or more; none. A finished run is exported anew.",
        choices=("auto", "none"),
        may_change=True,
    )
    test_time_flips: bool = _option(
        False,
        "The exported model averages over the 8 flips of its input: a little better, eight times "
        "slower. A finished run is exported anew.",
        may_change=True,
    )
    strategy: str = _option(
        "mirrored",
        "mirrored, all devices of this machine; or multiworker, the machines that the environment "
        "variable TF_CONFIG names. Start the same command on each, with its own index in TF_CONFIG="
        '\'{"cluster": {"worker": ["node1:12345", "node2:12345"]}, "task": {"type": "worker", '
        '"index": 0}}\'. Worker 0 (or a "chief") alone writes into --model_dir, which all must '
        "see. When one is lost the others exit with 75: run the command on all of them again.",
        choices=("mirrored", "multiworker"),
        may_change=True,
    )
    peer_wait_minutes: float = _option(
        10.0,
        "With --strategy=multiworker: how long to wait at the start until all workers are there; "
        "then exits with 75.",
        may_change=True,
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
        option_checks.check(self)

    @property
    def modality_names(self):
        """Canonical names of the network's channels, in order."""
        return tuple(name.strip() for name in self.modalities.split(","))

    @property
    def filter_counts(self):
        """Channels of each level of the network."""
        if self.filters == "auto":
            return network_options.NETWORKS[self.network].filters
        return tuple(option_checks.integers(self.filters))

    @property
    def dropout_rates(self):
        """One rate for each block of the network."""
        filters = self.filter_counts
        if self.dropout == "auto":
            return network_options.NETWORKS[self.network].rates(filters)
        rates = option_checks.floats(self.dropout)
        return tuple(rates) if len(rates) > 1 else tuple(rates) * (2 * len(filters) - 1)

    @property
    def supervises_deeply(self):
        """Whether coarser outputs of the network are trained too."""
        if self.deep_supervision == "auto":
            return network_options.NETWORKS[self.network].deep_supervision
        return self.deep_supervision == "on"

    @property
    def decay_rate(self):
        """Weight decay of the optimizer."""
        if self.weight_decay == "auto":
            return 0.01 if self.optimizer == "adamw" else 0.0
        return float(self.weight_decay)

    @property
    def cross_validates(self):
        """Whether each fold is to be that of validation in turn: one run for each."""
        return self.validation_fold == "all"

    @property
    def validation_folds(self):
        """The validation fold as a tuple, empty for none; of one run, not of all folds."""
        return option_checks.folds(self.validation_fold)

    @property
    def test_folds(self):
        """The test fold as a tuple, empty for none."""
        return option_checks.folds(self.test_fold)

    def identity(self):
        """What must be the same for a rerun to continue a run: flag -> value."""
        fixed = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if not field.metadata.get("may_change")
        }
        made_for_epochs = self.schedule != "constant" or self.averaging == "swa"
        return fixed | {"epochs": self.epochs} if made_for_epochs else fixed
