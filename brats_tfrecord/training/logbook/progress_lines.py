"""What a run says of itself: a line when it begins, one an epoch. Imports no TensorFlow."""

from brats_tfrecord import spec
from brats_tfrecord.wording import duration


def opening_line(trainer, position):
    """What a `Trainer` learns from, and from which `Position` on."""
    options, dataset = trainer.options, trainer.dataset
    steps = f" and {position.step} steps" if position.step else ""
    went_on = (
        f", after {position.epoch} finished epochs{steps}"
        if position.epoch or position.step
        else ""
    )
    slow = (
        " (emulated by this CPU: --precision=float32 is many times faster)"
        if trainer.emulates_precision
        else ""
    )
    return (
        f"training on {len(dataset.case_ids(trainer.train_folds))} cases, validating on "
        f"{len(dataset.case_ids(options.validation_folds))}: patches "
        f"{'x'.join(map(str, trainer.patch_shape))} of {options.modalities}, batch "
        f"{options.batch_size} over {trainer.strategy.num_replicas_in_sync} replica(s), "
        f"{trainer.precision}{slow}{went_on}"
    )


def epoch_line(row, epochs, seconds_left):
    """One epoch in one line, of at most 120 columns.

    Args:
        row: dict with the keys of `history.COLUMNS`; what is missing or None is left out.
        epochs: of the whole run.
        seconds_left: until the last one ends, as far as can be told.

    Returns:
        Text such as "epoch 12/30  loss 0.4321  val 0.5012  Dice WT 0.901 TC 0.850 ET 0.803"
        with "  2.31 volumes/s  input-wait 3%  ETA 1:02:33" after it.
    """
    parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}", f"loss {row['loss']:.4f}"]
    if row.get("val_loss") is not None:
        parts.append(f"val {row['val_loss']:.4f}")
    dice = {region: row.get(f"val_dice_{region}") for region in spec.REGIONS}
    if None not in dice.values():
        parts.append("Dice " + " ".join(f"{name} {value:.3f}" for name, value in dice.items()))
    parts.append(f"{row['volumes_per_second']:.2f} volumes/s")
    if row.get("input_wait") is not None:
        parts.append(f"input-wait {row['input_wait']:.0%}")
    return "  ".join([*parts, f"ETA {duration(seconds_left)}"])
