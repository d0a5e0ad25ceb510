"""Models: networks, checkpoints and their metadata, calibration, and the registry of what --model can name."""
