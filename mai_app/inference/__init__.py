"""Inference with a trained model: detector, predictions, scans, heatmaps, reloading, ONNX export."""
