"""The networks that can be named, their files, and how a logit becomes a verdict."""
