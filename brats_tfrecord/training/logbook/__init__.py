"""Files that a run writes for people: history, plots, TensorBoard events, overlays, run card."""
