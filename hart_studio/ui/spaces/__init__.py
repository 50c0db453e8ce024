"""Hugging Face Spaces: private sessions, sign-in, ZeroGPU."""
