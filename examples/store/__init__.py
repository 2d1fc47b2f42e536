"""Object storage for the bundled examples: S3 in memory, with raw events for `interactions_transform` to read."""
