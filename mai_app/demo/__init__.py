"""The whole way on simulated images."""
