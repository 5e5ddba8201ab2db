"""Records to batches: reading, augmentation, folds, the tf.data input pipeline."""
