"""Losses, optimizers, learning-rate schedules, and the update of the weights."""
