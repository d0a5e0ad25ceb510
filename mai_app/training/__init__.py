"""From a prepared set to a checkpoint, and data sets of twins."""
