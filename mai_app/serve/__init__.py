"""The web page and HTTP API around a detector."""
