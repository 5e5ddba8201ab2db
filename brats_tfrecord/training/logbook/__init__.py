"""What a run writes for people: progress, history, plots, TensorBoard events, overlays, run card."""
