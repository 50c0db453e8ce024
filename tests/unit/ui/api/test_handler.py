from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from pydantic import Field

from hart_studio.errors import BusyError, DataError, ImageError, InputError, ModelError
from hart_studio.ui.api.handler import Handler, Request, api_handler, call_handler, parse_request

SECRET = "/srv/private/secret.txt"  # noqa: S105 - the name of a file that is not there


class StepRequest(Request):
    messages: ClassVar[Mapping[str, str]] = {"sizes": "Choose two sizes."}

    run: str = "newest"
    step: int = Field(default=1, ge=0)
    sizes: tuple[int, int] = (1, 2)


class StrictRequest(StepRequest, extra="forbid"):
    project: str


def raising(error):
    def poll():
        raise error

    return poll


def test_a_function_keeps_its_name_and_gets_a_typed_request():
    def poll(request: StepRequest) -> dict[str, Any]:
        assert isinstance(request, StepRequest)
        return {"got": (request.run, request.step)}

    call = api_handler(poll)
    assert call.__name__ == "poll"
    assert call({"run": "a", "step": 3, "deep": [{}]}) == {"got": ("a", 3)}
    assert call() == call(None) == call({"run": None}) == {"got": ("newest", 1)}, "null is missing"


@pytest.mark.parametrize(
    ("kind", "request_", "message"),
    [
        (StepRequest, {"step": -1}, "step: Input should be greater than or equal to 0."),
        (StepRequest, {"run": 7}, "run: Input should be a valid string."),
        (StepRequest, {"sizes": [1]}, "Choose two sizes."),
        (StepRequest, {"sizes": [1, "x"]}, "Choose two sizes."),
        (StrictRequest, {}, "project: Field required."),
        (StrictRequest, {"project": None}, "project: Input should be a valid string."),
        (StrictRequest, {"project": "p", "more": 1}, "more: Extra inputs are not permitted."),
        (StepRequest, [], "expected a JSON object, got list. Reload the page."),
    ],
)
def test_an_invalid_field_is_named(kind, request_, message):
    with pytest.raises(InputError) as caught:
        parse_request(kind, request_)
    assert message in str(caught.value)
    assert str(caught.value) == message or str(caught.value).startswith("Invalid request: ")


def test_a_method_answers_for_the_api_of_the_visitor():
    class Api:
        def __init__(self, name):
            self.name = name

        def poll(self, request: StepRequest) -> str:
            return f"{self.name}, step {request.step}"

        def names(self) -> list[str]:
            return [self.name]

    open_apis = []

    @contextmanager
    def open_api(handler: Handler, request: Mapping[str, Any]) -> Iterator[Api]:
        if "token" not in request:
            raise InputError("Session expired.")
        open_apis.append(handler)
        yield Api(request["token"])
        open_apis.remove(handler)

    assert api_handler(Api.poll, open_api=open_api)({"token": "ada", "step": 2}) == "ada, step 2"
    assert api_handler(Api.names, open_api=open_api)({"token": "eve"}) == ["eve"]
    assert api_handler(Api.names, open_api=open_api)({}) == {"error": "Session expired."} and open_apis == []
    assert call_handler(Api("ben").poll, {}) == "ben, step 1"


@pytest.mark.parametrize("reply", [None, [], {}, 0, "text", {"error": "", "x": 1}])
def test_answers_pass_as_they_are(reply):
    assert api_handler(lambda: reply)({}) == reply


@pytest.mark.parametrize("request_", ["", "text", 0, 1.5, True, [], [{}], ("a",), b"x"])
def test_what_is_no_object_never_reaches_the_function(request_):
    def poll():
        raise AssertionError("it was called")

    message = f"Invalid request: expected a JSON object, got {type(request_).__name__}. Reload the page."
    assert api_handler(poll)(request_) == {"error": message}


@pytest.mark.parametrize("kind", [InputError, DataError, ImageError, ModelError, BusyError])
def test_errors_for_people_come_back_word_for_word(kind):
    assert api_handler(raising(kind("expected a run, got 'x'; choose one")))({}) == {
        "error": "expected a run, got 'x'; choose one"
    }


@pytest.mark.parametrize("redact_paths", [False, True])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError(SECRET), "This is a bug"),
        (FileNotFoundError(errno.ENOENT, "No such file", SECRET), "This is a bug"),
        (OSError(errno.ENOSPC, "No space left on device", SECRET), "The disk of the server is full."),
        (MemoryError(SECRET), "need more memory than is available"),
        (RecursionError(SECRET), "This is a bug"),
    ],
)
def test_all_other_errors_become_words_without_a_place(error, words, redact_paths, caplog):
    reply = api_handler(raising(error), redact_paths=redact_paths)({})
    assert reply.keys() == {"error"} and words in reply["error"]
    assert "secret" not in reply["error"] and "srv" not in reply["error"]
    assert "MemoryError" in type(error).__name__ or "secret" in caplog.text, "the log has all of it"


def test_the_end_of_the_program_is_no_answer():
    with pytest.raises(KeyboardInterrupt):
        api_handler(raising(KeyboardInterrupt()))({})


def test_who_is_refused_learns_nothing_and_does_nothing():
    called = []

    def poll(request: StepRequest) -> None:
        called.append(request.step)

    def admit(person):
        if person != "ada":
            raise InputError("this belongs to the owner")

    call = api_handler(poll, admit)
    refusal = {"error": "this belongs to the owner"}
    assert call({"person": "ada"}) == call("no object") == call({}, None) == call({}, "eve") == refusal
    assert called == [], "the user comes from the session, not from the request"
    assert call({"step": 4}, "ada") is None and called == [4]


def test_an_error_in_the_permission_check_lets_no_one_in():
    def admit(person):
        raise AttributeError(SECRET)

    reply = api_handler(lambda: {"secret": 1}, admit)({})
    assert reply.keys() == {"error"} and "secret" not in reply["error"]


@pytest.mark.parametrize(("redact_paths", "shown"), [(False, SECRET), (True, "secret.txt")])
def test_a_discreet_page_says_the_names_of_files_alone(redact_paths, shown):
    handler = api_handler(lambda: {"path": SECRET, "rows": [f"cannot read {SECRET}"]}, redact_paths=redact_paths)
    assert handler({}) == {"path": shown, "rows": [f"cannot read {shown}"]}
    refuse = api_handler(raising(DataError(f"expected JSON in {SECRET}, got text")), redact_paths=redact_paths)
    assert refuse({}) == {"error": f"expected JSON in {shown}, got text"}
