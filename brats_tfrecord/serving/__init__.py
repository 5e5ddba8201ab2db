"""The SavedModel: export, and segmentation of cases with it. Never imports training."""
