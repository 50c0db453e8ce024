import time

import pytest

from hart_studio.ui import json_bodies
from hart_studio.ui.json_bodies import BodyError, parse_body


def test_a_body_is_parsed():
    assert parse_body(b'{"data": [1, {"a": "x"}]}', takes_files=True) == {"data": [1, {"a": "x"}]}


@pytest.mark.parametrize("unit", [b'{"a":1},', b"[[]],", b"1,", b"{},"])
def test_many_values_are_refused_before_they_are_parsed(unit):
    body = b"[" + unit * (2**20 // len(unit)) + b"1]"
    began = time.process_time()
    with pytest.raises(BodyError, match="at most 20,000 JSON values") as caught:
        parse_body(body, takes_files=True)
    assert caught.value.status == 413
    assert time.process_time() - began < 0.05, "counting takes a few milliseconds, parsing some hundred"


def test_as_many_values_as_are_allowed_pass():
    body = b"[" + b"1," * (json_bodies.MAX_VALUES - 1) + b"1]"
    assert len(parse_body(body, takes_files=True)) == json_bodies.MAX_VALUES


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 70 + b"]" * 70, "at most 64 levels"),
        (b"[NaN]", "with NaN"),
        (b'{"a": 1, "a": 2}', "duplicate names"),
        (b'{"data": [{"path": "http://169.254.169.254/"}]}', "got a URL"),
    ],
)
def test_what_a_page_never_sends_is_refused(body, words):
    with pytest.raises(BodyError, match=words) as caught:
        parse_body(body, takes_files=True)
    assert caught.value.status == 400


def test_a_call_that_takes_no_files_may_name_an_address():
    assert parse_body(b'{"path": "http://x/"}', takes_files=False) == {"path": "http://x/"}
