"""Exception classes, one per kind of input: image, box, setting, model, data file.

A message says what failed, why, and what to do.
"""


class HartError(Exception):
    """Base class of errors that a user can cause and fix. The message can be shown to the user."""


class ImageError(HartError):
    """The image cannot be read: wrong format, truncated, empty, or above the pixel limit."""


class BoxError(HartError):
    """A box is invalid: non-finite, inverted, or empty after clipping."""


class InputError(HartError):
    """A question, an answer, a choice list, or a setting is invalid."""


class BusyError(HartError):
    """The queue is full. The request itself is valid and can be repeated later."""


class ModelError(HartError):
    """A model is missing, belongs to no supported family, or does not fit on the device."""


class DataError(HartError):
    """A data file or folder cannot be read as samples."""


class HubError(HartError):
    """A repository of the Hub is missing or restricted, a download failed, or the disk is too small."""
