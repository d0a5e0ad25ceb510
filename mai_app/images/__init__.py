"""From an image file's bytes to pixels, and from pixels to a network's inputs."""
