import types

from brats_tfrecord.training.logbook.progress_lines import epoch_line, opening_line
from brats_tfrecord.wording import duration

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


def test_a_validated_epoch_tells_all_and_stays_readable():
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


def test_what_was_not_measured_is_left_out():
    unvalidated = TRAINED | {"val_loss": None, "input_wait": None, "val_dice_WT": None}
    assert epoch_line(unvalidated, 8, 9) == "epoch 7/8  loss 0.4321  2.31 volumes/s  ETA 0:00:09"


def test_the_opening_line_tells_what_learns_and_warns_of_emulated_arithmetic():
    trainer = types.SimpleNamespace(
        options=types.SimpleNamespace(validation_folds=(0,), modalities="flair,t1ce", batch_size=4),
        dataset=types.SimpleNamespace(case_ids=lambda folds: ["case"] * 10 * len(folds)),
        train_folds=(1, 2),
        patch_shape=(48, 48, 32),
        precision="mixed_bfloat16",
        strategy=types.SimpleNamespace(num_replicas_in_sync=2),
        emulates_precision=False,
    )
    at = types.SimpleNamespace(epoch=3, step=0)
    assert opening_line(trainer, at) == (
        "training on 20 cases, validating on 10: patches 48x48x32 of flair,t1ce, batch 4 over 2 "
        "replica(s), mixed_bfloat16, after 3 finished epochs"
    )
    trainer.emulates_precision = True
    assert "mixed_bfloat16 (emulated by this CPU: --precision=float32 is many times faster)," in (
        opening_line(trainer, at)
    )


def test_duration():
    assert [duration(s) for s in (0, 59.6, 3599, 360000)] == [
        "0:00:00",
        "0:01:00",
        "0:59:59",
        "100:00:00",
    ]
