"""Repositories of the Hugging Face Hub: what they hold, what the local cache has, and downloads. No torch."""
