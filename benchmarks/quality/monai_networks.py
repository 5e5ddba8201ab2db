"""MONAI's networks, trained on a CPU or GPU as PyTorch users train them.

Volumes stay in memory, normalised; a thread cuts and augments patches while the network computes.
AdamW, warm-up and cosine by elapsed time, so that the schedule ends with the minutes. bfloat16
autocast where the processor has it, and the faster of PyTorch's two memory layouts. Windows of the
patch size, half overlapping, with Gaussian weights.
"""

import itertools
import math
import time
from pathlib import Path

import numpy as np
import torch
from monai.data import Dataset, ThreadDataLoader
from monai.inferers import sliding_window_inference
from monai.losses import DeepSupervisionLoss, DiceCELoss, DiceLoss
from monai.networks.nets import DynUNet, SegResNet, UNet
from monai.transforms import (
    Compose,
    EnsureTyped,
    FgBgToIndicesd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SpatialPadd,
)

from brats_tfrecord import spec
from brats_tfrecord.errors import InputError
from brats_tfrecord.preprocess import crop
from quality import cases

BATCH = 1
WEIGHT_DECAY, WARM_UP, CLIP_NORM = 1e-5, 0.02, 12.0
TRIAL_STEPS = 3
REGIONS = torch.tensor(
    [
        [float(c in members) for c in range(len(spec.CLASS_NAMES))]
        for members in spec.REGIONS.values()
    ]
)
REGION_CLASSES = (spec.ED, spec.NCR, spec.ET)
"""The class of a voxel of WT, TC or ET that lies in none of the later regions."""


def train(root: Path, training, settings, case_ids, classes, deadline):
    """Trains a network until another step like the last would not end before the deadline.

    Args:
        root: folder of the comparison.
        training: the `Training`; its contestant is NETWORK[:regions|:classes].
        settings: the `Settings`.
        case_ids: the cases to train on.
        classes: number of classes of the masks, background included.
        deadline: (start, end), as `time.perf_counter`.

    Returns:
        (number of steps, minutes since the start, function from a `Case` to its classes).
    """
    torch.manual_seed(training.seed)
    torch.set_num_threads(settings.cores)
    name, _, variant = training.contestant.partition(":")
    regions = variant != "classes"
    channels = len(REGIONS) if regions else classes
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = _Trainer(
        lambda: make_network(name, len(settings.modality_names), channels).to(device),
        make_loss(regions),
        regions,
        device,
        settings.learning_rate,
    )
    batches = make_batches(root, case_ids, settings.patch_size, training.seed)
    seconds = trainer.choose_layout(next(batches))
    start, end = (clock + seconds for clock in deadline)  # the choice takes none of the minutes
    steps, seconds = 0, 0.0
    while (now := time.perf_counter()) + seconds < end:
        trainer.step(next(batches), (now - start) / (end - start))
        steps, seconds = steps + 1, time.perf_counter() - now
    minutes = (time.perf_counter() - start) / 60
    return steps, minutes, trainer.predictor(root, settings.patch_size)


def make_network(name: str, inputs: int, outputs: int) -> torch.nn.Module:
    """Builds a network by name, float32 [B, inputs, X, Y, Z] -> logits [B, outputs, X, Y, Z]."""
    if name == "unet":  # residual, 4.8 million parameters
        return UNet(3, inputs, outputs, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2)
    if name == "dynunet":  # the network of nnU-Net
        return DynUNet(
            3,
            inputs,
            outputs,
            kernel_size=[3] * 5,
            strides=[1, 2, 2, 2, 2],
            upsample_kernel_size=[2] * 4,
            deep_supervision=True,
            deep_supr_num=2,
        )
    # As in MONAI's example for BraTS.
    return SegResNet(
        3, 16, inputs, outputs, dropout_prob=0.2, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1)
    )


def make_loss(regions: bool):
    """Makes Dice + cross-entropy of logits and classes int [B, 1, X, Y, Z]."""
    if not regions:
        return DiceCELoss(to_onehot_y=True, softmax=True)
    dice = DiceLoss(sigmoid=True)  # DiceCELoss would take a softmax over the regions
    entropy = torch.nn.BCEWithLogitsLoss()

    def loss(logits, target):
        truth = REGIONS.to(target.device)[:, target[:, 0].long()].movedim(0, 1)
        return dice(logits, truth) + entropy(logits, truth)

    return loss


def make_batches(root: Path, case_ids, patch_size: int, seed: int):
    """Yields batches of patches for ever: image float32 [B, C, ...], label int [B, 1, ...]."""
    keys, size = ["image", "label"], (patch_size,) * 3
    prepare = Compose([SpatialPadd(keys, size), FgBgToIndicesd("label")])
    rows = []
    for case_id in case_ids:
        arrays = np.load(cases.array_path(root, case_id))
        rows.append(prepare({"image": arrays["image"], "label": arrays["classes"][None]}))
    augment = Compose(
        [
            RandCropByPosNegLabeld(
                keys,
                "label",
                size,
                fg_indices_key="label_fg_indices",
                bg_indices_key="label_bg_indices",
            ),
            EnsureTyped(keys, dtype=(torch.float32, torch.uint8), track_meta=False),
            *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)),
            RandScaleIntensityd("image", factors=0.1, prob=1.0),
            RandShiftIntensityd("image", offsets=0.1, prob=1.0),
            RandGaussianNoised("image", prob=0.15, std=0.1),
        ]
    )
    augment.set_random_state(seed)
    # The list is repeated, so that few cases do not end the epoch, and the thread, every few steps.
    dataset = Dataset(
        rows * math.ceil(1000 / len(rows)),
        lambda row: {key: patch[key] for patch in augment(row) for key in keys},
    )
    loader = ThreadDataLoader(dataset, buffer_size=4, batch_size=BATCH, shuffle=True, num_workers=0)
    return itertools.chain.from_iterable(itertools.repeat(loader))


class _Trainer:
    """A network, its optimizer and its memory layout."""

    def __init__(self, make_network, loss, regions, device, learning_rate):
        self._make, self._base_loss, self._device = make_network, loss, device
        self._deep_loss = DeepSupervisionLoss(loss)
        self._regions, self._rate = regions, learning_rate
        self._autocast = device.type == "cuda" or has_bfloat16()
        self._restart(torch.contiguous_format)

    def _restart(self, layout):
        self._layout = layout
        self._network = self._make().to(memory_format=layout)
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(), self._rate, weight_decay=WEIGHT_DECAY
        )

    def choose_layout(self, batch):
        """Times steps in both layouts, and starts again in the faster one; returns its seconds."""
        began = time.perf_counter()
        state = {name: value.clone() for name, value in self._network.state_dict().items()}
        seconds = {}
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            self._restart(layout)
            times = [self._timed_step(batch) for _ in range(TRIAL_STEPS)]
            seconds[layout] = min(times)
        fastest = min(seconds, key=seconds.get)
        print({str(layout): round(value, 3) for layout, value in seconds.items()}, flush=True)
        self._restart(fastest)
        self._network.load_state_dict(state)
        return time.perf_counter() - began

    def _timed_step(self, batch):
        began = time.perf_counter()
        self.step(batch, 0.0)
        return time.perf_counter() - began

    def step(self, batch, share):
        """Takes a step; `share` of the time is over."""
        rate = self._rate * min(1.0, share / WARM_UP) * 0.5 * (1 + math.cos(math.pi * share))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        image = batch["image"].to(self._device, memory_format=self._layout)
        target = batch["label"].to(self._device)
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(self._logits(image), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), CLIP_NORM)
        self._optimizer.step()
        if not math.isfinite(loss.item()):
            raise InputError("the loss is not finite; try a lower --peer_learning_rate")

    def _logits(self, image):
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            return self._network(image).float()

    def _loss(self, logits, target):
        if logits.dim() == 5:
            return self._base_loss(logits, target)
        return self._deep_loss(list(logits.unbind(1)), target)  # DynUNet: [B, heads, K, X, Y, Z]

    def predictor(self, root, patch_size):
        """Returns a function from a `Case` to uint8 [X, Y, Z] canonical classes on its grid."""
        self._network.eval()

        def predict(case):
            arrays = np.load(cases.array_path(root, case.case_id))
            image = torch.from_numpy(arrays["image"].astype(np.float32))[None].to(self._device)
            with torch.inference_mode():
                logits = sliding_window_inference(
                    image.contiguous(memory_format=self._layout),
                    (patch_size,) * 3,
                    sw_batch_size=1,
                    predictor=self._logits,
                    overlap=0.5,
                    mode="gaussian",
                )
                classes = to_classes(logits[0], self._regions).cpu().numpy()
            return crop.uncrop(classes, arrays["origin"], arrays["shape"])

        return predict


def to_classes(logits: torch.Tensor, regions: bool) -> torch.Tensor:
    """Converts logits [K, X, Y, Z] to canonical classes, uint8 [X, Y, Z], as our own networks."""
    if not regions:
        return logits.argmax(0).to(torch.uint8)
    classes = torch.zeros(logits.shape[1:], dtype=torch.uint8, device=logits.device)
    for channel, class_id in enumerate(REGION_CLASSES):
        classes[logits[channel] > 0] = class_id
    return classes


def has_bfloat16() -> bool:
    """Whether the processor computes with bfloat16; false where Linux's /proc is missing."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16"})
