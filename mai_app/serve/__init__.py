"""The detector behind HTTP."""
