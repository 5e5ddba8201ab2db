"""Contract 2, the SavedModel: export, and prediction from it. Never imports training."""
