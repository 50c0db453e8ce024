"""The images of the documents, taken from the running app: ``python -m tests.browser.screenshots``."""
