"""Provenance evidence from an image file's metadata, reported beside the score; needs no torch."""
