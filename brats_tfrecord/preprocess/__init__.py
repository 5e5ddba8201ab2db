"""Raw volumes to network input, and back: bias correction, crop, normalisation, masks, recipe."""
