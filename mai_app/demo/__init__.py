"""The demo: simulated images, and the whole way on them; pictures for the documentation."""
