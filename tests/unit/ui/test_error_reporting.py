import errno
import logging
import re

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from hart_studio.errors import BoxError, BusyError, DataError, HartError, ImageError, InputError, ModelError
from hart_studio.ui.cache import CacheCleaner
from hart_studio.ui.error_reporting import ErrorMiddleware, describe
from hart_studio.ui.security.request_limits import RequestLimitMiddleware
from tests.asgi import accepting, call, part


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


SECRET = "/srv/private/some body/secret.txt"  # noqa: S105 - the name of a file that is not there
PIECE = {"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True}


def start(status):
    return {"type": "http.response.start", "status": status, "headers": [(b"x-own", b"1")]}


def application(*steps):
    """Sends messages one after another; an exception among them is raised."""

    async def answer(scope, receive, send):
        for step in steps:
            if isinstance(step, BaseException):
                raise step
            await send(step)

    return answer


def incident_of(answer):
    assert answer.status == 400
    assert answer.headers[b"content-type"] == b"application/json" and b"x-own" not in answer.headers
    match = re.fullmatch(r"Request failed\. Search the server log for ([0-9a-f]{8})\.", answer.detail)
    assert match, answer.detail
    return match[1]


@pytest.mark.parametrize(
    "error",
    [
        KeyError(SECRET), OSError(2, "No such file", SECRET), InputError(f"expected a file, got {SECRET}"),
        HTTPException(404, SECRET), MemoryError(), RecursionError(SECRET),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "x"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_exception_is_one_line_with_a_number_that_the_log_has(error, caplog):
    answer = call(ErrorMiddleware(application(error)), path="/gradio_api/call/x\n\0")
    (record,) = caplog.records
    assert incident_of(answer) in record.getMessage() and record.levelno == logging.ERROR
    assert record.exc_info[1] is error, "with its stack"
    assert "\n" not in record.getMessage(), "a path of a client makes no line of its own in the log"
    assert b"secret" not in answer.body and b"srv" not in answer.body


def test_every_fault_has_a_number_of_its_own():
    app = ErrorMiddleware(application(ValueError()))
    assert len({incident_of(call(app)) for _ in range(50)}) == 50


@pytest.mark.parametrize("status", [500, 501, 502, 504, 505, 506, 508, 599])
def test_an_error_response_is_replaced_in_whole(status, caplog):
    body = {"type": "http.response.body", "body": SECRET.encode()}
    answer = call(ErrorMiddleware(application(start(status), body, body)))
    assert incident_of(answer) in caplog.text and len(answer.messages) == 2
    assert b"secret" not in answer.body


def test_an_exception_behind_such_an_answer_is_logged_once(caplog):
    answer = call(ErrorMiddleware(application(start(500), PIECE, ValueError(SECRET))))
    assert incident_of(answer) in caplog.text and len(caplog.records) == 1
    assert [message["type"] for message in answer.messages] == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize("status", [200, 204, 303, 400, 401, 404, 413, 499, 503, 507])
def test_all_other_answers_pass_as_they_are(status, caplog):
    messages = [start(status), PIECE, PIECE]
    answer = call(ErrorMiddleware(application(*messages)))
    assert answer.messages == messages and not caplog.records, (
        "503 (queue full) and 507 (uploads full) are sent on purpose"
    )


@pytest.mark.parametrize(("error", "is_logged"), [(ValueError(SECRET), True), (HTTPException(404, SECRET), False)])
def test_a_stream_that_breaks_off_ends_where_it_was(error, is_logged, caplog):
    answer = call(ErrorMiddleware(application(start(200), PIECE, error)))
    assert answer.messages == [start(200), PIECE]
    assert bool(caplog.records) == is_logged


def test_who_has_gone_is_neither_answered_nor_logged(caplog):
    assert call(ErrorMiddleware(application(ClientDisconnect()))).messages == [] and not caplog.records


def test_the_end_of_the_program_is_no_fault():
    with pytest.raises(KeyboardInterrupt):
        call(ErrorMiddleware(application(KeyboardInterrupt())))


def test_the_body_of_a_request_passes_untouched():
    answer = call(ErrorMiddleware(accepting), [part(b"\0a"), part(b"b", is_last=True)])
    assert (answer.status, answer.body) == (200, b"\0ab")


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_faults_of_other_protocols_are_the_servers(kind):
    with pytest.raises(KeyError):
        call(ErrorMiddleware(application(KeyError("x"))), kind=kind)


def test_a_full_space_for_uploads_reaches_the_client_with_its_reason(tmp_path, caplog):
    cache = CacheCleaner(tmp_path, 0)
    app = ErrorMiddleware(RequestLimitMiddleware(accepting, cache=cache))
    form = (b"content-type", b"multipart/form-data; boundary=x")
    answer = call(app, [part(b"0" * 100, is_last=True)], path="/gradio_api/upload", headers=[form])
    assert (answer.status, answer.detail) == (507, "The space for uploads is full. Try again in a few minutes.")
    assert not caplog.records


def test_an_answer_about_wrong_fields_does_not_repeat_the_input():
    sent = {"type": "http.response.body", "body": b'{"detail":[{"input":"' + b"x" * 1000 + b'"}]}'}
    answer = call(ErrorMiddleware(application(start(422), sent)))
    assert (answer.status, "fields" in answer.detail) == (422, True)
    assert b"xxx" not in answer.body and len(answer.body) < 200
