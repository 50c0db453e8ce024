"""Needle: synthetic high-resolution scenes with a detail that is not visible in the overview."""
