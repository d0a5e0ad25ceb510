"""From a checkpoint and data to figures."""
