"""Benchmarks of MAI: ratios against a stated limit, measured in one run."""
