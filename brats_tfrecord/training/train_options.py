"""The options of a training run: one frozen dataclass, checked at construction.

Imports no TensorFlow, so that `--help` appears at once.
"""

import dataclasses
from dataclasses import dataclass

from brats_tfrecord import spec
from brats_tfrecord.options import option
from brats_tfrecord.training import option_checks
from brats_tfrecord.training.data import augment
from brats_tfrecord.training.data.augment import Augmentation
from brats_tfrecord.training.distribution import cluster
from brats_tfrecord.training.network import network_options

DOCUMENTED = "documented"
PRESETS = (DOCUMENTED, "cpu", "gpu")
"""Values of --preset; `presets` has what they set."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of one training run; each field is a flag of `tools/train.py` of the same name.

    Options with `may_change` may have another value when a run in the same `model_dir` is resumed.

    Raises:
        InputError: at construction; names the flag that is wrong.
    """

    data_dir: str = option(
        dataclasses.MISSING, "Dataset folder written by convert_to_tfrecord.py.", may_change=True
    )
    model_dir: str = option(
        dataclasses.MISSING,
        "Folder for checkpoints, history and the SavedModel. Running the same command again "
        "resumes the run in it.",
        may_change=True,
    )
    preset: str = option(
        DOCUMENTED,
        "Recipe that sets the flags that are not given. documented: the defaults below; cpu: for "
        "minutes to an hour on a few cores, best with --time_budget_minutes; gpu: for hours on one "
        "or more NVIDIA GPUs: patch and batch follow from their number and memory, epochs from the "
        "number of cases. A flag that is given always wins. docs/train.md lists what each sets; "
        "run_card.md what it has set.",
        choices=PRESETS,
        may_change=True,
    )
    time_budget_minutes: float = option(
        0.0,
        "Minutes in which the whole command ends, the export included, on this machine; 0 is no "
        "budget. Instead of --epochs and --validate_every: steps, schedule and validations are "
        "planned from a measured step and planned anew while the run goes on, so that the learning "
        "rate reaches its end however fast the machine is. Earlier sessions of the run count.",
        may_change=True,
    )
    validation_fold: str = option(
        "0",
        "Fold that selects the best epoch. With none, the last epoch is exported. With all, each "
        "fold in turn is the validation fold of a run in MODEL_DIR/fold0, fold1, ... "
        "(cross-validation), and a table summarizes the runs.",
    )
    test_fold: str = option(
        "none", "Fold that is used neither for training nor for selection, or none."
    )
    modalities: str = option(
        "flair,t1ce,t2", "Modalities that the network sees, in the order of its input channels."
    )
    brain_channel: bool = option(
        False,
        "The network sees one more channel, after the modalities, which is 1 inside the brain and "
        "0 outside (Futrega et al. 2021). It is computed from the image, in training and in the "
        "exported model, and needs skull-stripped images. Costs a few milliseconds per patch.",
    )
    patch_size: int = option(
        128,
        "Edge length of the random training patches in voxels. Shorter axes of the crop are used "
        "whole; 0 trains on whole crops.",
    )
    foreground_fraction: float = option(
        0.33,
        "Fraction of the patches, from 0 to 1, that are centred on tumour. The others are placed "
        "anywhere.",
    )
    foreground: str = option(
        "voxels",
        "What these patches are centred on. voxels: any tumour voxel, so mostly edema, the largest "
        "class; classes: each tumour class of the case is equally likely, then each of its voxels, "
        "so that small classes are seen as often as large ones.",
        choices=augment.FOREGROUNDS,
    )
    patches_per_case: int = option(
        1,
        "Patches of each case per epoch, shuffled among those of other cases. Reading a small "
        "patch is cheap: use 4 or more with a small --patch_size.",
    )
    augment: str = option(
        "light",
        "Augmentation of the patches. none; flips: random flips along each axis; light: also scale "
        "and shift of each modality's intensity, at almost no cost; full: also quarter turns and, "
        "in some patches, rotation, zoom, gamma, noise, blur and low resolution; strong: the "
        "ranges of the BraTS winners, that is rotation to any angle, scaling by 0.65 to 1.6 that "
        "differs between the axes, elastic deformation, brightness, contrast, gamma of 0.5 to 1.6 "
        "(also of the inverted image), and noise, blur and low resolution of some modalities. "
        "full and strong are meant for runs of hundreds of epochs and take about 0.2 "
        "core-seconds per patch of 128 voxels.",
        choices=tuple(augment.LEVELS),
    )
    modality_dropout: float = option(
        0.0,
        "Probability, 0 or more and less than 1, that a training patch loses some of its "
        "modalities: their channels become 0, as those of a modality that a case lacks. Each "
        "selection that leaves one modality or more is equally likely. Use 0.3 to 0.5 for a model "
        "that is given cases that lack a modality. 0 leaves it to --augment, whose levels none to "
        "full drop nothing.",
    )
    cache: str = option(
        "none",
        "Where records are kept after the first read. none: only in the system's file cache; "
        "memory: in the process, 27 MB per case of 144x144x144 voxels; disk: shards are copied to "
        "--cache_dir, for datasets on a slow network.",
        choices=("none", "memory", "disk"),
        may_change=True,
    )
    cache_dir: str = option(
        "",
        "Folder on a local disk for --cache=disk; later runs use its files again.",
        may_change=True,
    )
    batch_size: int = option(
        2, "Examples per step, over all replicas. Must be a multiple of the number of replicas."
    )
    epochs: int = option(
        30,
        "Number of passes over the training cases. A finished run can be continued with more, "
        "unless its --schedule or --averaging depends on their number.",
        may_change=True,
    )
    learning_rate: float = option(
        1e-3,
        "Highest learning rate, before --schedule lowers it. 1e-3 suits adam, adamw and ranger; "
        "start with 1e-2 for sgd, lamb and novograd.",
    )
    schedule: str = option(
        "constant",
        "Learning rate after the warm-up. constant: for trials, and to add epochs later; cosine or "
        "polynomial (power 0.9, as in nnU-Net): falls to 0 at the last step and gives a better "
        "model, for runs whose --epochs are fixed.",
        choices=("constant", "cosine", "polynomial"),
    )
    warmup_epochs: float = option(
        0.0,
        "Epochs, also fractions, over which the learning rate rises from 0 at the start. Use 1 to "
        "5 if the loss jumps at the start: with large batches, high learning rates or lamb.",
    )
    optimizer: str = option(
        "adam",
        "adam (a safe choice), adamw (adam with --weight_decay, for long runs on few cases), sgd "
        "(Nesterov momentum 0.99 as in nnU-Net; slower, often better after hundreds of epochs) or "
        "lamb (for batches of dozens on many GPUs). From TensorFlow Addons, on Python 3.10 and "
        "3.11: ranger (rectified Adam with lookahead, which needs no warm-up) and novograd (keeps "
        "one second moment per layer, which saves memory).",
        choices=("adam", "adamw", "sgd", "lamb", "ranger", "novograd"),
    )
    weight_decay: str = option(
        "auto",
        "Fraction of each weight, times the learning rate, that every update subtracts: less "
        "overfitting, less capacity. Biases and the parameters of norm layers are left alone. auto "
        "is 0.01 for adamw and 0 otherwise. adam has no weight decay.",
    )
    clip_norm: float = option(
        0.0,
        "Longest gradient, as the norm over all weights; longer ones are scaled down. 0 does not "
        "clip. Use it (nnU-Net: 12) if single batches throw the training back.",
    )
    accumulate: int = option(
        1,
        "Batches per update, whose gradients are averaged as for one large batch; for GPUs too "
        "small for that batch. The learning rate is that of the large batch.",
    )
    averaging: str = option(
        "none",
        "Averaged weights to validate and export in place of the trained ones. ema: moving average "
        "over the last tenth of the updates (at most 1000), which evens out the last steps of any "
        "run; swa: stochastic weight averaging, the mean of one state per epoch over the last "
        "quarter of --epochs, for a constant, rather high learning rate.",
        choices=("none", "ema", "swa"),
    )
    targets: str = option(
        "classes",
        "Outputs of the network. classes: one softmax over background and tumour classes; regions: "
        "a sigmoid for each of the scored regions WT, TC and ET, as winners of BraTS use.",
        choices=("classes", "regions"),
    )
    loss: str = option(
        "cross_entropy",
        "Loss. cross_entropy; dice: soft Dice of each patch; dice_cross_entropy: the sum of both, "
        "as in nnU-Net, a good choice; batch_dice_cross_entropy: with Dice over the whole batch, "
        "for small patches that often lack a class; focal: cross-entropy that emphasizes hard "
        "voxels; tversky: Dice that penalizes misses more than false alarms.",
        choices=(
            "cross_entropy",
            "dice",
            "dice_cross_entropy",
            "batch_dice_cross_entropy",
            "focal",
            "tversky",
        ),
    )
    class_weights: str = option(
        "none",
        "Class weights of the cross-entropy and focal losses. balanced: rare classes weigh more, "
        "by the voxel counts of the training cases; none: all classes weigh the same.",
        choices=("none", "balanced"),
    )
    network: str = option(
        "unet",
        "Network. unet: the documented 3-D U-Net; unet_nn: a U-Net as in nnU-Net, with instance "
        "norm, leaky ReLU, strided convolutions, deep supervision, twice the filters and more "
        "levels; unet_res: the same with residual blocks in the encoder and a light decoder, as in "
        "nnU-Net's residual encoders.",
        choices=tuple(network_options.NETWORKS),
    )
    filters: str = option(
        "auto",
        "Channels of each level of the network, finest level first. auto is 16,32,64,128,256 "
        "for unet, 32,64,128,256,320,320 for unet_nn and 32,64,128,256,320 for unet_res.",
    )
    first_stride: int = option(
        1,
        "1, or 2 to let the finest level of the network work on half the extents of the image. On "
        "CPUs a step then takes a fifth to a third of the time, so that a run sees more, or "
        "larger, patches; the outlines are computed at half the resolution.",
    )
    init_from: str = option(
        "",
        "Folder of a SavedModel, or of a finished run that holds one, whose weights the run starts "
        "from; for a cohort with few cases, a model of another one. It must have the same "
        "--network, --filters and --first_stride. Input channels that it lacks start at random, "
        "and so do the outputs if they mean something else. Its own folder is not changed, and a "
        "resumed run does not read it again.",
    )
    dropout: str = option(
        "auto",
        "Dropout rate of each block of the network (down, bottleneck, up), or one rate for all. "
        "auto is 0.1,0.1,0.2,0.2,0.3,0.2,0.2,0.1,0.1 for unet, shortened to the levels of "
        "--filters, and 0 for the others.",
    )
    deep_supervision: str = option(
        "auto",
        "on adds the losses of all coarser outputs, each level with half the weight of the finer "
        "one (Lee et al. 2015), which steadies the training of deep networks; a number adds that "
        "many of them, the finest ones; off adds none. auto is on for unet_nn and unet_res, and "
        "off for unet.",
    )
    validate_every: int = option(
        1,
        "Epochs between validations, which also redraw history.png. The last epoch is always "
        "validated.",
    )
    seed: int = option(
        0, "Seed of the initial weights, the order of cases, the patches and the augmentation."
    )
    precision: str = option(
        "auto",
        "Precision of the layers. auto is mixed_bfloat16 on GPUs of compute capability 8.0 or more "
        "and on CPUs with AVX512-BF16 or AMX, mixed_float16 on GPUs of compute capability 7.x, and "
        "float32 otherwise. A run keeps the "
        "precision it began with: where auto means another, it is refused until that one is given.",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    xla: bool = option(
        False,
        "Compiles the training step with XLA. On GPUs steps become faster after a slow first one; "
        "on CPUs they become ten times slower.",
        may_change=True,
    )
    deterministic: bool = option(
        False,
        "The same command gives the same weights, bit for bit, on GPUs too, if GPUs and software "
        "are the same. Slower: cuDNN uses deterministic algorithms only and does not try several. "
        "On CPUs two runs are equal without it.",
        may_change=True,
    )
    checkpoint_minutes: float = option(
        10.0,
        "Minutes between saved states; 0 saves after every step. The state is also saved after "
        "every epoch and when the run is stopped. A killed run resumes from the last saved state.",
        may_change=True,
    )
    time_limit_minutes: float = option(
        0.0,
        "Minutes after which the run saves its state and stops with exit code 75; 0 is no limit. "
        "Give a little less than the time limit of the batch system.",
        may_change=True,
    )
    profile: bool = option(
        False,
        "Does not train: times steps with real input, steps with one repeated batch, and the "
        "loader alone, and prints a table. --model_dir is not touched.",
        may_change=True,
    )
    post_processing: str = option(
        "auto",
        "Corrections that the exported model applies to its segmentations. auto tries thresholds "
        "for small components and for a small enhancing tumour on the validation cases. It keeps "
        "a correction if thresholds chosen without a patient raise the mean Dice of the patients "
        "left out by 0.002 or more, also over the cases that hold enhancing tumour. none applies "
        "no correction. May be changed for a finished run, which is then exported again.",
        choices=("auto", "none"),
        may_change=True,
    )
    test_time_flips: bool = option(
        False,
        "The exported model averages its predictions for the 8 flips of the input: slightly "
        "better, eight times slower. May be changed for a finished run, which is then exported "
        "again.",
        may_change=True,
    )
    strategy: str = option(
        "mirrored",
        "mirrored: all devices of this machine; multiworker: all machines listed in the "
        "environment variable TF_CONFIG. Start the same command on each machine, with its own "
        f"index in TF_CONFIG='{cluster.EXAMPLE}'. Only worker 0 (or the \"chief\") writes to "
        "--model_dir, which all machines must see. If one is lost, the others exit with code 75: "
        "run the command on all of them again.",
        choices=("mirrored", "multiworker"),
        may_change=True,
    )
    peer_wait_minutes: float = option(
        10.0,
        "With --strategy=multiworker: minutes to wait at the start for the other workers, before "
        "exiting with code 75.",
        may_change=True,
    )
    gpus: str = option(
        "all",
        "GPUs to train on: all, none (the CPU), or their numbers such as 0,1. If the machine has "
        "GPUs but TensorFlow cannot use them, training stops and says why, except with none.",
        may_change=True,
    )
    virtual_devices: int = option(
        0,
        "Number of replicas to split the CPU into, to try a distributed run without GPUs; 0 does "
        "not split it.",
        may_change=True,
    )

    from_preset: tuple[str, ...] = option(
        (), "Names of the options that --preset has set; no flag.", may_change=True, is_flag=False
    )

    def __post_init__(self) -> None:
        option_checks.check(self)

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Canonical names of the modalities that the network sees, in order."""
        return tuple(name.strip() for name in self.modalities.split(","))

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the network's input channels, in order."""
        return spec.input_names(self.modality_names, self.brain_channel)

    @property
    def augmentation(self) -> Augmentation:
        """Probabilities and ranges of the level of --augment, with --modality_dropout."""
        level = augment.LEVELS[self.augment]
        if not self.modality_dropout:
            return level
        return dataclasses.replace(level, channel_dropout=self.modality_dropout)

    @property
    def filter_counts(self) -> tuple[int, ...]:
        """Channels of each level of the network."""
        if self.filters == "auto":
            return network_options.NETWORKS[self.network].filters
        return tuple(option_checks.integers(self.filters) or ())

    @property
    def architecture(self) -> dict[str, str]:
        """The options that all weights but those of the first and last layer depend on."""
        return {
            "network": self.network,
            "filters": ",".join(map(str, self.filter_counts)),
            "first_stride": str(self.first_stride),
        }

    @property
    def dropout_rates(self) -> tuple[float, ...]:
        """Dropout rate of each block of the network."""
        filters = self.filter_counts
        if self.dropout == "auto":
            return network_options.NETWORKS[self.network].rates(filters)
        rates = tuple(option_checks.floats(self.dropout) or ())
        return rates if len(rates) > 1 else rates * (2 * len(filters) - 1)

    @property
    def coarse_outputs(self) -> int:
        """Number of coarser outputs of the network that are trained, too."""
        chosen = self.deep_supervision
        if chosen == "auto":
            chosen = "on" if network_options.NETWORKS[self.network].deep_supervision else "off"
        if chosen == "on":
            return network_options.most_coarse_outputs(self.filter_counts, self.first_stride)
        return 0 if chosen == "off" else int(chosen)

    @property
    def decay_rate(self) -> float:
        """Weight decay of the optimizer."""
        if self.weight_decay == "auto":
            return 0.01 if self.optimizer == "adamw" else 0.0
        return float(self.weight_decay)

    @property
    def has_time_budget(self) -> bool:
        """Whether the number of steps is planned from a time budget."""
        return self.time_budget_minutes > 0

    @property
    def cross_validates(self) -> bool:
        """Whether each fold in turn is the validation fold of a run of its own."""
        return self.validation_fold == "all"

    @property
    def validation_folds(self) -> tuple[int, ...]:
        """The validation fold as a tuple, empty for none; undefined for a cross-validation."""
        return option_checks.folds(self.validation_fold)

    @property
    def test_folds(self) -> tuple[int, ...]:
        """The test fold as a tuple, empty for none."""
        return option_checks.folds(self.test_fold)

    def identity(self) -> dict[str, object]:
        """Flags and values that a rerun must repeat to continue a run."""
        fixed = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if not field.metadata.get("may_change")
        }
        if self.has_time_budget:
            return fixed | {"time_budget_minutes": self.time_budget_minutes}
        depends_on_epochs = self.schedule != "constant" or self.averaging == "swa"
        return fixed | {"epochs": self.epochs} if depends_on_epochs else fixed
