"""Foundations without knowledge of images: files and logs, threads, progress and signals, devices, metrics, display."""
