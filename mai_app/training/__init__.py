"""Training: the loop and its run folder, data-parallel processes, sweeps, and data sets of twins."""
