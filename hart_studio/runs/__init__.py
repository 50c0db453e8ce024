"""Runs on disk: settings, files, writing and reading, starting and stopping jobs."""
