"""Trains the 3-D U-Net on a converted dataset and exports a SavedModel.

Usage:
  python tools/train.py --data_dir=dataset --model_dir=model
  python tools/train.py --data_dir=dataset --model_dir=model --validation_fold=0 --test_fold=1 \\
      --patch_size=128 --batch_size=4 --epochs=100 --loss=dice_cross_entropy
  python tools/train.py --data_dir=dataset --model_dir=model --virtual_devices=2   # a dry run of
      # two replicas on a CPU

All visible GPUs are used, each taking only the memory it needs. The same command run again goes
on where it stopped. MODEL_DIR then holds saved_model/, history.csv, history.png, checkpoints/ and
tensorboard/ (look at it with `tensorboard --logdir MODEL_DIR/tensorboard`).
"""

import command_line

from brats_tfrecord.training.options import TrainOptions


def main(options):
    """Trains and exports; returns 0."""
    from brats_tfrecord.workflow import train_and_export  # late: --help needs no TensorFlow

    result, path = train_and_export(options)
    print(f"Exported epoch {result.best_epoch} to {path}")
    return 0


if __name__ == "__main__":
    command_line.run(main, TrainOptions)
