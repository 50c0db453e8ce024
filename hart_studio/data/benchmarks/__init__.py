"""Loaders of published datasets, one module each."""
