"""Image files: finding, decoding, preprocessing for a network, and quality."""
