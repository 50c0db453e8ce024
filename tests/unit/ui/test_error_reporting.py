import errno
import logging
import re

import pytest

from hart_studio.errors import BoxError, BusyError, DataError, HartError, ImageError, InputError, ModelError
from hart_studio.ui.error_reporting import describe


@pytest.mark.parametrize(
    ("error", "title"),
    [
        (ImageError("expected an image, got SVG; save it as PNG"), "Invalid image"),
        (InputError("expected a question, got empty text"), "Invalid input"),
        (ModelError("expected a model, got nothing"), "Model unavailable"),
        (BoxError("expected a box"), "Invalid boxes"),
        (DataError("expected JSON"), "Cannot read file"),
        (BusyError("queue full"), "Server busy"),
        (HartError("other"), "Request failed"),
    ],
)
def test_our_own_errors_are_shown_as_sentences(error, title):
    failure = describe(error)
    assert failure.title == title
    assert failure.message == str(error)[0].upper() + str(error)[1:] + "."


def test_a_sentence_keeps_its_own_end():
    assert describe(InputError("what now?")).message == "What now?"


def test_running_out_of_memory_says_what_to_turn_down():
    class OutOfMemoryError(RuntimeError):
        pass

    for error in (MemoryError(), OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")):
        failure = describe(error)
        assert failure.title == "Out of memory"
        assert "Choose a smaller model" in failure.message
        assert "GiB" not in failure.message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_so_and_names_no_path(number):
    failure = describe(OSError(number, "No space left on device", "/home/someone/secret.txt"))
    assert failure.title == "Disk full"
    assert "Saved data is intact" in failure.message and "secret" not in failure.message


def test_an_unexpected_error_shows_a_number_and_logs_the_stack(caplog):
    try:
        raise KeyError("/home/someone/secret.txt")
    except KeyError as error:
        with caplog.at_level(logging.ERROR):
            failure = describe(error)
    assert "secret" not in failure.title + failure.message
    incident = re.search(r"Search the log for ([0-9a-f]{8})", failure.message).group(1)
    assert incident in caplog.text
    assert "secret.txt" in caplog.text
    assert "Traceback" in caplog.text
