"""The dataset on disk: examples, shards, manifest, conversion, verification."""
