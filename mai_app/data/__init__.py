"""Training data: sources, folders and the Hub, deduplication and splits, prepared sets, augmentation, batches."""
