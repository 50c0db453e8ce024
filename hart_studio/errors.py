"""One exception class per boundary. Each message says what was expected, what was got and what to do."""


class HartError(Exception):
    """Base of every error that a user can cause and repair; its text is fit to be shown."""


class ImageError(HartError):
    """The image cannot be read: wrong format, truncated, empty, or over the pixel cap."""


class BoxError(HartError):
    """A box is not a box: non-finite, inverted, or empty after clipping."""


class InputError(HartError):
    """A question, an answer, a choice list, or a setting is not usable."""


class BusyError(HartError):
    """Others come first, and there is no room to wait; nothing is wrong with what was asked."""


class ModelError(HartError):
    """A model cannot be found, is of no supported family, or does not fit the device."""


class DataError(HartError):
    """A data file or folder cannot be read as samples."""
