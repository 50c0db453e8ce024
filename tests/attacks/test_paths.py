"""Path traversal in all inputs that take a name: calls, file URLs, uploads."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest

from tests.attacks.targets import SECRET, Target, leaks

pytestmark = pytest.mark.integration

KEYS = (
    "run", "project", "item", "sample", "before", "after", "reviewer", "model", "benchmark", "path", "format", "name",
    "category", "text", "signature", "title", "decision", "kind", "question", "choices",
)  # fmt: skip


def hostile_names(target: Target) -> list[str]:
    """Ways to write the path of a file outside of the allowed folders."""
    secret = str(target.secret)
    return [
        secret, f"file://{secret}", "../../private/secret.txt", "..",
        "..%2f..%2fprivate%2fsecret.txt", "..\\..\\private\\secret.txt",
        "signs/../../private/secret.txt\0", "signs/\0", "/etc/passwd",
        f"{target.run}/../../private", "a" * 5000, "/dev/zero",
    ]  # fmt: skip


def files_of(root: Path) -> dict[str, bytes]:
    """All files outside of the served folder, except databases, which record access."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else b""
        for path in sorted(root.rglob("*"))
        if not path.is_relative_to(root / "cache") and "project.sqlite" not in path.name and ".queue" not in path.name
    }


@pytest.mark.core
def test_no_call_of_a_page_leads_out_of_its_folders(target: Target) -> None:
    before = files_of(target.root)
    names = [name for _, name in target.server_functions if name not in {"preview_source", "start_import", "create"}]
    assert len(names) > 30
    reported = set()
    with httpx.Client() as client:
        for name in dict.fromkeys(names):
            for hostile in hostile_names(target):
                data: dict[str, Any] = dict.fromkeys(KEYS, hostile)
                data |= {"runs": [hostile], "step": 1, "protocol": "crops_only", "expected": 0, "revision": 1}
                answer = target.call(name, data, client)
                assert answer.status_code == 200, (name, hostile, answer.text)
                assert SECRET not in answer.text and "root:x" not in answer.text, (name, hostile)
                assert leaks(answer.text.replace(json.dumps(hostile)[1:-1], ""), target, names_roots=True) == []
                reported.add("error" if '"error"' in answer.text else "answer")
    assert "error" in reported
    assert files_of(target.root) == before, "nothing was written, and nothing went"


def test_a_project_is_made_below_the_root_whatever_its_name(target: Target) -> None:
    before = set(target.root.iterdir())
    for name in ("../../evil", "/srv/evil", "..", "a/../../b", "\0x", "evil\n"):
        answer = target.call("create", {"name": name}).json()
        assert "error" in answer or (target.root / "labels" / answer["id"]).is_dir(), name
    assert set(target.root.iterdir()) == before
    assert all(path.parent == target.root / "labels" for path in (target.root / "labels").iterdir())


@pytest.mark.parametrize("prefix", ["gradio_api/file=", "gradio_api/file/", "static/", "assets/", "svelte/", "theme/"])
def test_no_address_serves_a_file_that_was_not_put_there(target: Target, prefix: str) -> None:
    place = urlsplit(target.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    secret = str(target.secret)
    cache = f"{target.cache}/work"
    ways = [
        secret, quote(secret, safe=""), f"{cache}/../../private/secret.txt",
        f"{cache}/%2e%2e/%2e%2e/private/secret.txt",
        f"{cache}/..%252f..%252fprivate/secret.txt", "../../../../../../etc/passwd", "/etc/passwd", "//etc/passwd",
        "..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd", "%00/etc/passwd", "/proc/self/environ", "/proc/self/cwd/app.py",
        "app.py", "~/.ssh/id_rsa", f"file://{secret}", str(target.root / "runs" / target.run / "config.json"),
        str(target.root / "labels" / "signs"),
    ]  # fmt: skip
    for way in ways:
        connection.request("GET", f"/{prefix}{way}".replace(" ", "%20"))
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status in {403, 404, 400}, (prefix, way, answer.status)
        assert SECRET.encode() not in body and b"root:x" not in body, (prefix, way)
    connection.close()


def test_links_in_the_served_folder_lead_nowhere(target: Target) -> None:
    link = target.cache / "work" / "link.txt"
    link.symlink_to(target.secret)
    folder = target.cache / "work" / "linked"
    folder.symlink_to(target.secret.parent)
    try:
        for path in (link, folder / "secret.txt"):
            answer = httpx.get(f"{target.url}gradio_api/file={path}")
            assert SECRET not in answer.text and answer.status_code in {403, 404}
    finally:
        link.unlink()
        folder.unlink()


@pytest.mark.parametrize(
    "name",
    ["../../evil.png", "/etc/evil.png", "..", ".", ".htaccess", "a\\..\\..\\b.png", "x" * 300 + ".png", "con",
     "a;b|c&.png", "evil.html", "evil.svg", "<img src=x>.png", "\N{RIGHT-TO-LEFT OVERRIDE}gnp.html", "%2e%2e%2fevil"],
    ids=lambda name: name[:20],
)  # fmt: skip
def test_uploads_are_kept_in_their_folder_and_never_run(target: Target, name: str) -> None:
    script = b"<html><script>alert(1)</script></html>"
    answer = target.upload(name, script)
    if answer.status_code != 200:
        assert answer.status_code == 400 and leaks(answer.text, target) == []
        return
    (path,) = answer.json()
    assert Path(path).resolve().parent.parent == target.cache.resolve()
    served = httpx.get(f"{target.url}gradio_api/file={quote(path)}")
    if served.status_code == 200:
        assert served.headers["x-content-type-options"] == "nosniff"
        kind = served.headers["content-type"]
        assert kind.startswith("image/") or "attachment" in served.headers["content-disposition"], kind
        assert "html" not in kind and "svg" not in kind and "javascript" not in kind


def test_events_of_the_page_read_no_file_that_was_not_uploaded(target: Target) -> None:
    for number, function in target.app.fns.items():
        path = str(target.root / "private" / "secret.png")
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        reported = target.trigger(number, [file] * len(function.inputs), {"run": path, "sample": path, "step": path})
        assert leaks(reported, target, names_roots=True) == [], (number, function.name)
    served = [path.read_bytes() for path in target.cache.rglob("*") if path.is_file()]
    assert (target.root / "private" / "secret.png").read_bytes() not in served


@pytest.mark.parametrize("endpoint", ["ask", "locate", "verify"])
def test_endpoints_read_no_file_that_was_not_uploaded(target: Target, endpoint: str) -> None:
    for path in (str(target.secret), str(target.root / "private" / "secret.png"), "../x", 7):
        for image in ({"path": path, "meta": {"_type": "gradio.FileData"}}, {"path": path}):
            reported = target.ask(image, endpoint)
            assert "event: error" in reported
            assert leaks(reported, target) == []
    (own,) = target.upload("own.png", (target.root / "images" / "street.png").read_bytes()).json()
    assert "event: complete" in target.ask({"path": own, "meta": {"_type": "gradio.FileData"}}, endpoint)
