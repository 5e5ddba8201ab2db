"""Contract 1, the dataset on disk: examples, shards, manifest, conversion."""
