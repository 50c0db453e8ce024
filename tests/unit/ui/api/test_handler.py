import errno

import pytest

from hart_studio.errors import BusyError, DataError, ImageError, InputError, ModelError
from hart_studio.ui.api.handler import api_handler

SECRET = "/srv/private/secret.txt"  # noqa: S105 - the name of a file that is not there


def raising(error):
    def poll(request):
        raise error

    return poll


def test_a_function_keeps_its_name_and_gets_what_the_page_sent():
    def poll(request):
        return {"got": dict(request)}

    call = api_handler(poll)
    assert call.__name__ == "poll"
    assert call({"run": "a", "deep": [{}]}) == {"got": {"run": "a", "deep": [{}]}}
    assert call() == call(None) == {"got": {}}


@pytest.mark.parametrize("reply", [None, [], {}, 0, "text", {"error": "", "x": 1}])
def test_answers_pass_as_they_are(reply):
    assert api_handler(lambda request: reply)({}) == reply


@pytest.mark.parametrize("request_", ["", "text", 0, 1.5, True, [], [{}], ("a",), b"x"])
def test_what_is_no_object_never_reaches_the_function(request_):
    def poll(request):
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

    def admit(person):
        if person != "ada":
            raise InputError("this belongs to the owner")

    call = api_handler(called.append, admit)
    refusal = {"error": "this belongs to the owner"}
    assert call({"person": "ada"}) == call("no object") == call({}, None) == call({}, "eve") == refusal
    assert called == [], "the user comes from the session, not from the request"
    assert call({"x": 1}, "ada") is None and called == [{"x": 1}]


def test_an_error_in_the_permission_check_lets_no_one_in():
    def admit(person):
        raise AttributeError(SECRET)

    reply = api_handler(lambda request: {"secret": 1}, admit)({})
    assert reply.keys() == {"error"} and "secret" not in reply["error"]


@pytest.mark.parametrize(("redact_paths", "shown"), [(False, SECRET), (True, "secret.txt")])
def test_a_discreet_page_says_the_names_of_files_alone(redact_paths, shown):
    handler = api_handler(
        lambda request: {"path": SECRET, "rows": [f"cannot read {SECRET}"]}, redact_paths=redact_paths
    )
    assert handler({}) == {"path": shown, "rows": [f"cannot read {shown}"]}
    refuse = api_handler(raising(DataError(f"expected JSON in {SECRET}, got text")), redact_paths=redact_paths)
    assert refuse({}) == {"error": f"expected JSON in {shown}, got text"}
