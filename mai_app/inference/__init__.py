"""A loaded model at work: predictions, scans, heatmaps, export."""
