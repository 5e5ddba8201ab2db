"""From records to a trained network: input pipeline, augmentation, U-Net, losses, loop."""
