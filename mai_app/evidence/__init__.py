"""What a file says of its own making, beside the score: read from its bytes, without torch."""
