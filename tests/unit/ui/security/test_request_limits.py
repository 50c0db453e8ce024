import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from hart_studio.ui.cache import MIN_AGE_SECONDS, CacheCleaner
from hart_studio.ui.security import request_limits
from hart_studio.ui.security.request_limits import BodyError, RequestLimitMiddleware, parse_body
from tests.asgi import JSON, accepting, call, part

UPLOAD = "/gradio_api/upload"
FORM = (b"content-type", b"multipart/form-data; boundary=x")


@pytest.fixture
def limit():
    return RequestLimitMiddleware(accepting)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Bounds that a test reaches at once: 100 bytes of JSON, 200 of files."""
    monkeypatch.setattr(request_limits, "MAX_JSON_BYTES", 100)
    monkeypatch.setattr(request_limits, "MAX_UPLOADED_BYTES", 200)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))


def length(value):
    return (b"content-length", str(value).encode())


def json_of(size):
    return b"[" + b" " * (size - 2) + b"]"


def in_parts(body, size=7):
    """The same as it comes in chunks, without a word about its length."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return [*map(part, pieces[:-1]), part(pieces[-1], is_last=True)]


def test_json_of_exactly_the_limit_passes_and_a_byte_more_does_not(limit):
    most = request_limits.MAX_JSON_BYTES
    assert call(limit, [part(json_of(most), is_last=True)], headers=[JSON, length(most)]).status == 200
    refused = call(limit, [part(json_of(most + 1), is_last=True)], headers=[JSON, length(most + 1)])
    assert (refused.status, refused.detail, refused.unread) == (
        413,
        "Request too large: at most 1 MB are allowed. Send less at once.",
        1,
    )
    assert refused.headers[b"connection"] == b"close", "what is left of it is never read"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("path", "kind", "most"), [("/gradio_api/call/ask", JSON, 100), (UPLOAD, FORM, 200)])
def test_chunks_without_a_length_are_counted_as_they_come(limit, path, kind, most):
    whole = call(limit, in_parts(json_of(most)), path=path, headers=[kind])
    assert (whole.status, whole.body) == (200, json_of(most))
    cut = call(limit, [*in_parts(json_of(most))[:-1], part(b"0" * 8), *[part(b"0")] * 50], path=path, headers=[kind])
    assert (cut.status, cut.unread) == (413, 50), "the rest is not waited for"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "value", ["", "-1", "-101", "+101", "1e9", "0x100", "abc", "1", "0" * 30 + "101", "\u0661\u0662\u0663"]
)
def test_a_length_that_lies_or_is_none_does_not_count(limit, value):
    headers = [JSON, (b"content-length", value.encode())]
    assert call(limit, in_parts(json_of(100)), headers=headers).status == 200
    assert call(limit, in_parts(json_of(101)), headers=headers).status == 413


@pytest.mark.usefixtures("small")
def test_of_several_lengths_the_largest_counts(limit):
    for values in itertools.permutations((5, 101, 0)):
        refused = call(limit, in_parts(b"[]"), headers=[JSON, *map(length, values)])
        assert (refused.status, refused.unread) == (413, 1)
    assert call(limit, in_parts(b"[]"), headers=[JSON, length(2), length(100)]).status == 200
    assert call(limit, in_parts(b"[]"), headers=[JSON, length(10**30), length(2)]).status == 413
    assert call(limit, in_parts(b"[]"), headers=[JSON, (b"Content-Length", b"101")]).status == 413


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        ("/gradio_api/call/ask", b"application/json; charset=utf-8", 200),
        ("/gradio_api/call/ask", b"Application/JSON", 200),
        ("/gradio_api/call/ask", b"text/plain", 415),
        ("/gradio_api/call/ask", b"multipart/form-data; boundary=x", 415),
        ("/gradio_api/call/ask", b"application/x-www-form-urlencoded", 415),
        ("/gradio_api/upload/x", b"multipart/form-data; boundary=x", 415),
        ("/gradio_api/component_server", b" application/json", 415),
        ("/login", b"application/x-www-form-urlencoded", 200),
        ("/login/", b"multipart/form-data; boundary=x", 200),
        ("/login", b"text/plain", 415),
        (UPLOAD, b"text/plain", 415),
    ],
)
def test_only_files_and_logins_are_forms_and_all_else_is_json(limit, path, kind, status):
    assert call(limit, in_parts(b"[1, 2]"), path=path, headers=[(b"content-type", kind)]).status == status


def test_the_first_of_several_kinds_counts(limit):
    plain = (b"content-type", b"text/plain")
    assert call(limit, in_parts(b"[]"), headers=[plain, JSON]).status == 415
    assert call(limit, in_parts(b"[]"), headers=[JSON, plain]).status == 200


@pytest.mark.parametrize("depth", [request_limits.MAX_NESTED, request_limits.MAX_NESTED + 1])
def test_json_is_nested_so_deep_and_no_deeper(limit, depth):
    for text in ("[" * depth + "1" + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        assert call(limit, in_parts(text.encode()), headers=[JSON]).status == (
            200 if depth == request_limits.MAX_NESTED else 400
        )


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', "[NaN]", "[-Infinity]", "[1", "nothing", "[]x", "[1" + "0" * 5000 + "]"]
)
def test_what_is_no_plain_json_is_refused_in_words(limit, text):
    refused = call(limit, in_parts(text.encode(), 1000), headers=[JSON])
    assert (refused.status, refused.detail) == (400, "Invalid JSON, or JSON with NaN, infinity or duplicate names.")


def test_a_call_without_a_body_is_for_the_application_to_judge(limit):
    assert call(limit, [part(b"", is_last=True)]).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "http://hub.example/x", "HTTP://x", "file:///etc/passwd", "git+ssh://x", "//host/x", "\\\\host\\share",
        "\\/host/x", "/\\host\\x", " \t//host/x", "http:/x",
    ],
)  # fmt: skip
def test_an_address_is_no_uploaded_file_however_deep_it_lies(limit, path):
    body = json.dumps({"data": [[{"a": {"path": path}}]]})
    for written in (body.encode(), body.encode("utf-16"), body.replace("p", "\\u0070").encode()):
        refused = call(limit, in_parts(written), headers=[JSON])
        assert refused.status == 400 and "Upload the file." in refused.detail
    own = call(limit, in_parts(body.encode()), headers=[JSON], path="/gradio_api/component_server")
    assert own.status == 200, "there it is a text of a form, which no part of gradio opens"


@pytest.mark.parametrize("path", ["/srv/cache/a.png", "C:\\cache\\a.png", "a.png", "", "https", None, 7, ["//x"]])
def test_a_place_on_this_machine_is_no_address(limit, path):
    assert call(limit, in_parts(json.dumps({"path": path}).encode()), headers=[JSON]).status == 200


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(request_limits, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@pytest.mark.parametrize(("late", "size", "status"), [(0, 1, 200), (1, 2048, 200), (1, 2047, 408), (3, 3 * 2048, 200)])
def test_who_is_late_must_have_sent_so_much_for_each_second(limit, clock, late, size, status):
    def pass_time():
        clock.seconds += request_limits.TIMEOUT_SECONDS + late

    messages = [part(b"["), pass_time, part(b" " * (size - 1)), part(b"]", is_last=True)]
    answer = call(limit, messages, headers=[JSON])
    assert answer.status == status
    if status == 408:
        assert answer.detail == "The request did not arrive in time. Send it again." and answer.unread == 1


def test_the_last_piece_may_be_late(limit, clock):
    def pass_time():
        clock.seconds += 1000

    assert call(limit, [part(b"["), pass_time, part(b"]", is_last=True)], headers=[JSON]).status == 200


def test_silence_has_an_end():
    limit = RequestLimitMiddleware(accepting, timeout=0.05)
    assert call(limit, [part(b"["), 5, part(b"]", is_last=True)], headers=[JSON]).status == 408
    assert call(limit, [5]).status == 408


def test_a_disconnected_client_gets_nothing(limit):
    assert call(limit, [part(b"[")], headers=[JSON]).messages == []
    assert call(limit, []).messages == []
    assert not limit._unfinished, "and is not counted any more"


def test_so_many_requests_may_be_on_their_way():
    limit = RequestLimitMiddleware(accepting, max_unfinished=3, max_per_client=2)

    def send(address):
        return call(limit, [part(b"["), 0.2, part(b"]", is_last=True)], client=address).status

    def send_together(*addresses):
        with ThreadPoolExecutor(len(addresses)) as pool:
            return sorted(pool.map(send, addresses))

    one, other, third = ("10.0.0.1", 1), ("10.0.0.2", 1), None
    assert send_together(one, one) == [200, 200]
    assert send_together(one, one, one) == [200, 200, 503], "one address has two"
    assert send_together(third, third, third) == [200, 200, 503], "and requests without an address count as one client"
    assert send_together(one, one, other, third) == [200, 200, 200, 503], "all together have three"
    assert send_together(one, one) == [200, 200] and not limit._unfinished


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_who_only_reads_is_let_through(limit, method):
    assert call(limit, [part(b"0" * 500, is_last=True)], method=method, headers=[length(500)]).status == 200


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "post", "STRANGE"])
def test_who_sends_has_bounds_by_whatever_name(limit, method):
    assert call(limit, in_parts(json_of(101)), method=method).status == 413


def test_other_protocols_are_passed_through(limit):
    assert call(limit, [part(b"no JSON", is_last=True)], kind="lifespan").status == 200


@pytest.mark.usefixtures("small")
def test_an_answer_that_has_begun_is_not_begun_again():
    async def hasty(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive()).get("more_body"):
            pass

    answer = call(RequestLimitMiddleware(hasty), [part(b"0" * 150)] * 2, path=UPLOAD, headers=[FORM])
    assert [message["type"] for message in answer.messages] == ["http.response.start"]


def test_a_fault_of_the_application_is_not_hidden_and_the_request_counts_no_more():
    async def failing(scope, receive, send):
        raise KeyError("x")

    limit = RequestLimitMiddleware(failing)
    with pytest.raises(KeyError):
        call(limit, in_parts(b"[]"))
    assert not limit._unfinished


@pytest.mark.usefixtures("small")
def test_what_a_broken_upload_left_goes_and_nothing_else_does(limit, tmp_path):
    left, other = tmp_path / "tmpab12_x9z", tmp_path / "tmpab12_x9z.png"
    kept = [other, tmp_path / "work", tmp_path / "tmplinked12", tmp_path / "TMPAB12_X9Z"]
    left.write_text("half an image")
    other.write_text("x")
    kept[1].mkdir()
    kept[2].symlink_to(other)
    kept[3].write_text("x")
    (tmp_path / "tmpfolder12").mkdir()
    assert call(limit, [part(b"--x")], path="/gradio_api/call/ask", headers=[JSON]).status == 0 and left.exists()
    assert call(limit, [part(b"--x")], path=UPLOAD, headers=[FORM]).status == 0
    assert not left.exists()
    assert all(path.exists() for path in kept) and (tmp_path / "tmpfolder12").is_dir()


@pytest.mark.usefixtures("small")
def test_an_upload_that_does_not_fit_into_the_cache_is_refused(tmp_path):
    sweeper = CacheCleaner(tmp_path / "cache", 150)
    limit = RequestLimitMiddleware(accepting, cache=sweeper)

    def upload(size, *headers):
        return call(limit, in_parts(b"0" * size), path=UPLOAD, headers=[FORM, *headers])

    assert upload(100, length(100)).status == 200
    assert upload(100, length(100)).status == 200, "the first one has ended"
    refused = upload(160, length(160))
    assert (refused.status, refused.detail) == (507, "The space for uploads is full. Try again in a few minutes.")
    assert upload(10).status == 200, "without a length its bytes count as they arrive"
    assert upload(160).status == 507
    assert sweeper._reserved == 0
    assert call(limit, [part(json_of(90), is_last=True)], headers=[JSON]).status == 200


@contextmanager
def drip(limit, count, *, size=1, stated=None, client=("10.0.0.1", 1)):
    """Hold unfinished uploads that have sent ``size`` bytes each; gives the list of their statuses as they end."""
    is_over, statuses, begun = threading.Event(), [], threading.Semaphore(0)

    def send():
        messages = [part(b"x" * size), begun.release, *[lambda: is_over.wait(0.02), 0] * 200, part(b"x", is_last=True)]
        headers = [FORM] if stated is None else [FORM, length(stated)]
        statuses.append(call(limit, messages, path=UPLOAD, headers=headers, client=client).status)

    threads = [threading.Thread(target=send, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
        assert begun.acquire(timeout=5)
    try:
        yield statuses
    finally:
        is_over.set()
        for thread in threads:
            thread.join(20)


@pytest.mark.usefixtures("small")
def test_stated_sizes_keep_no_one_out_and_remove_nothing(tmp_path):
    now = SimpleNamespace(seconds=0.0)
    sweeper = CacheCleaner(tmp_path / "cache", 500, clock=lambda: now.seconds)
    (tmp_path / "cache").mkdir()
    other = tmp_path / "cache" / "work of another visitor"
    other.write_bytes(b"0" * 200)
    sweeper.sweep()
    now.seconds += 2 * MIN_AGE_SECONDS
    limit = RequestLimitMiddleware(accepting, cache=sweeper)
    with drip(limit, 5, stated=200):
        answer = call(limit, in_parts(b"0" * 150), path=UPLOAD, headers=[FORM, length(150)], client=("10.0.0.2", 1))
        assert answer.status == 200
        assert other.exists(), "nothing goes for bytes that have not arrived"
    assert sweeper._reserved == 0 and not limit._unfinished


@pytest.mark.usefixtures("small")
def test_uploads_that_drip_keep_no_other_out_even_from_the_same_address(monkeypatch):
    monkeypatch.setattr(request_limits, "MAX_UPLOADS_PER_CLIENT", 4)
    limit = RequestLimitMiddleware(accepting)
    with drip(limit, 4) as statuses:
        assert call(limit, in_parts(b"0" * 150), path=UPLOAD, headers=[FORM]).status == 200
        wait_until(lambda: statuses == [503])
    assert sorted(statuses) == [200, 200, 200, 503] and not limit._unfinished


@pytest.mark.usefixtures("small")
def test_unfinished_uploads_of_one_address_take_a_part_of_the_space(tmp_path, monkeypatch):
    monkeypatch.setattr(request_limits, "RESERVED_STEP_BYTES", 10)
    sweeper = CacheCleaner(tmp_path / "cache", 600)
    limit = RequestLimitMiddleware(accepting, cache=sweeper)
    with drip(limit, 3, size=100) as statuses:
        wait_until(lambda: sweeper._reserved == 300)
        with drip(limit, 1, size=60, client=("10.0.0.2", 1)) as others:
            assert statuses == []
            with drip(limit, 1, size=150):
                wait_until(lambda: len(statuses) == 1)
        assert others == [200]
    assert sorted(statuses).count(503) == 1 and sweeper._reserved == 0


def wait_until(is_true):
    end = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("late", "status"), [(1, 200), (60, 408), (899, 408)])
def test_a_large_upload_must_be_faster(clock, late, status):
    """9 MB in 900 s are 10 KB each second."""
    limit = RequestLimitMiddleware(accepting)

    def pass_time():
        clock.seconds += request_limits.TIMEOUT_SECONDS + late

    size = 9_000_000
    messages = [part(b"0" * 100_000), pass_time, part(b"0" * 100_000), part(b"0" * (size - 200_000), is_last=True)]
    assert call(limit, messages, path=UPLOAD, headers=[FORM, length(size)]).status == status


@pytest.mark.parametrize(("late", "status"), [(-1, 200), (1, 408)])
def test_a_body_without_a_length_has_an_end_too(clock, late, status):
    def pass_time():
        clock.seconds += request_limits.TIMEOUT_SECONDS + request_limits.MAX_SECONDS + late

    messages = [part(b"0" * 9_000_000), pass_time, part(b"0"), part(b"0", is_last=True)]
    assert call(RequestLimitMiddleware(accepting), messages, path=UPLOAD, headers=[FORM]).status == status


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
    body = b"[" + b"1," * (request_limits.MAX_VALUES - 1) + b"1]"
    assert len(parse_body(body, takes_files=True)) == request_limits.MAX_VALUES


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
