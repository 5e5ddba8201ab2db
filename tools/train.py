"""Trains the 3-D U-Net on a converted dataset and exports a SavedModel.

Usage:
  python tools/train.py --data_dir=dataset --model_dir=model
  python tools/train.py --data_dir=dataset --model_dir=model --validation_fold=0 --test_fold=1 \\
      --patch_size=128 --batch_size=4 --epochs=100 --loss=dice_cross_entropy
  python tools/train.py --data_dir=dataset --model_dir=model --preset=cpu --time_budget_minutes=30
      # a good model in half an hour without a GPU; --preset=gpu for hours on GPUs
  python tools/train.py --data_dir=dataset --model_dir=model --validation_fold=all
      # cross-validation: one run per fold
  python tools/train.py --data_dir=dataset --model_dir=model --virtual_devices=2
      # two replicas on a CPU, to try a distributed run
  TF_CONFIG='{"cluster": {"worker": ["node1:12345", "node2:12345"]}, "task": {"type": "worker",
      "index": 0}}' python tools/train.py --strategy=multiworker --data_dir=dataset \\
      --model_dir=model   # likewise on node2, with index 1; docs/gpus_and_clusters.md has SLURM

Trains on all visible GPUs; each allocates only the memory it needs. The same command run again
resumes the run at the last saved step, and gives the same result as an uninterrupted run.
MODEL_DIR then holds saved_model/, run_card.md, history.csv, history.png, overlays.png,
checkpoints/ and tensorboard/ (show it with `tensorboard --logdir MODEL_DIR/tensorboard`).
"""

import os

import command_line

from brats_tfrecord import stopping
from brats_tfrecord.quiet_import import quiet_import
from brats_tfrecord.training import cross_validation, presets
from brats_tfrecord.training.distribution import cpu_memory, gpu_settings
from brats_tfrecord.training.train_options import TrainOptions


def main(options: TrainOptions) -> int:
    """Trains and exports, or times training steps; returns 0."""
    settings = gpu_settings.tuned(os.environ, xla=options.xla, deterministic=options.deterministic)
    os.environ.update(settings)
    # TensorFlow is imported here: it reads the settings, and --help does not load it.
    if options.profile:
        with quiet_import():
            from brats_tfrecord.training.profile import profile

        print(profile(options))
        return 0
    with quiet_import():
        from brats_tfrecord.workflow import cross_validate, train_and_export

    if options.cross_validates:
        rows, table, path = cross_validate(options, stopping.STARTED)
        print(
            f"{cross_validation.to_text(rows)}\nWritten to {table}\n"
            f"Exported the average of {len(rows)} networks to {path}"
        )
        return 0
    exported = train_and_export(options, stopping.STARTED)
    if exported:
        print(f"Exported epoch {exported.result.best_epoch} to {exported.path}")
    return 0


if __name__ == "__main__":
    cpu_memory.restart_tuned()
    command_line.run(main, TrainOptions, presets.train_options)
