"""The built-in world: synthetic high-resolution scenes whose decisive detail is lost in the overview."""
