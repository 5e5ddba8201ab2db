import types

from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.journal import epoch_line, opening_line


def test_the_opening_line_describes_the_run_and_warns_of_emulated_precision(monkeypatch):
    monkeypatch.setattr(devices, "describe", lambda strategy: "2 x NVIDIA A100-SXM4-80GB")
    trainer = types.SimpleNamespace(
        options=types.SimpleNamespace(
            validation_folds=(0,), input_names=("flair", "t1ce", "brain"), batch_size=4
        ),
        dataset=types.SimpleNamespace(case_ids=lambda folds: ["case"] * 10 * len(folds)),
        train_folds=(1, 2),
        patch_shape=(48, 48, 32),
        precision="mixed_bfloat16",
        strategy=types.SimpleNamespace(num_replicas_in_sync=2),
        emulates_precision=False,
    )
    position = types.SimpleNamespace(epoch=3, step=0)
    assert opening_line(trainer, position) == (
        "training on 20 cases, validating on 10: patches 48x48x32 of flair,t1ce,brain, batch 4 "
        "over 2 replica(s) on 2 x NVIDIA A100-SXM4-80GB, mixed_bfloat16, after 3 finished epochs"
    )
    trainer.emulates_precision = True
    assert "mixed_bfloat16 (emulated by this CPU: --precision=float32 is many times faster)," in (
        opening_line(trainer, position)
    )


TRAINED = {
    "epoch": 7,
    "loss": 0.43214,
    "volumes_per_second": 2.308,
    "seconds": 12.0,
    "input_wait": 0.034,
}
VALIDATED = TRAINED | {
    "val_loss": 0.5,
    "val_dice_WT": 0.9,
    "val_dice_TC": 0.85,
    "val_dice_ET": 0.8004,
    "val_dice_mean": 0.85,
}


def test_a_validated_epoch_fits_into_one_line():
    line = epoch_line(VALIDATED, 30, 3725)
    assert line == (
        "epoch  7/30  loss 0.4321  val 0.5000  Dice WT 0.900 TC 0.850 ET 0.800"
        "  2.31 volumes/s  input-wait 3%  ETA 1:02:05"
    )
    long = epoch_line(
        VALIDATED | {"epoch": 999, "loss": 2.3, "input_wait": 1.0, "volumes_per_second": 123.45},
        999,
        99 * 3600,
    )
    assert len(long) <= 120


def test_missing_values_are_left_out():
    unvalidated = TRAINED | {"val_loss": None, "input_wait": None, "val_dice_WT": None}
    assert epoch_line(unvalidated, 8, 9) == "epoch 7/8  loss 0.4321  2.31 volumes/s  ETA 0:00:09"
