"""Malicious files sent to a running page: images, archives, settings."""

from __future__ import annotations

import io
import json
import resource
import stat
import time
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.attacks.targets import SECRET, Target, leaks
from tests.images import encoded, png

pytestmark = pytest.mark.integration
MAX_SECONDS = 60.0
"""Time limit per file on a busy machine; a second on an idle one."""
MOST_MIB = 1500
"""Memory that one file may add, bytes."""


def forged_size(format_: str) -> bytes:
    """A small image whose header states an enormous size."""
    small = encoded(Image.new("RGB", (8, 8), "navy"), format_)
    if format_ == "GIF":
        return small[:6] + b"\xff\xff\xff\xff" + small[10:]
    if format_ == "JPEG":
        at = small.index(b"\xff\xc0") + 5
        return small[:at] + b"\xff\xff\xff\xff" + small[at + 4 :]
    if format_ == "TIFF":
        return small.replace(b"\x00\x01\x04\x00\x01\x00\x00\x00\x08", b"\x00\x01\x04\x00\x01\x00\x00\x00\xff")
    return small.replace(b"VP8 ", b"VP8X")


IMAGES = {
    "png of 60000 x 60000": png(60_000, 60_000, b"\0" * 100),
    "png of 2 billion columns": png(2**31 - 1, 1, b"\0" * 100),
    "png that unpacks to 300 MB": png(10_000, 10_000, b"\0" * 300_010_000),
    "gif": forged_size("GIF"),
    "jpeg": forged_size("JPEG"),
    "tiff": forged_size("TIFF"),
    "webp": forged_size("WEBP"),
    "torn jpeg": encoded(Image.new("RGB", (2000, 2000)), "JPEG")[:400],
    "torn png": encoded(Image.new("RGB", (200, 200)), "PNG")[:60],
    "html in a gif": b"GIF89a<script>alert(1)</script>",
    "zip in a png": encoded(Image.new("RGB", (8, 8)), "PNG")[:20] + b"PK\x03\x04" + b"\0" * 100,
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    "empty": b"",
}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("name", IMAGES)
def test_a_malicious_image(target: Target, name: str) -> None:
    started, memory = time.monotonic(), peak_mib()
    (path,) = target.upload("a.png", IMAGES[name]).json()
    reported = target.ask({"path": path, "meta": {"_type": "gradio.FileData"}})
    assert "event: complete" in reported or "event: error" in reported
    assert leaks(reported, target) == [] and "root:x" not in reported
    assert time.monotonic() - started < MAX_SECONDS and peak_mib() - memory < MOST_MIB
    if name not in {"png that unpacks to 300 MB", "tiff", "webp"}:  # these may be images after all
        assert "event: error" in reported and "Invalid image" in reported, reported


def archive(*entries: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries:
            file.writestr(name, data)
    return stream.getvalue()


def special(name: str, kind: int) -> zipfile.ZipInfo:
    """An archive entry marked as a link or a device."""
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info


def test_archives_that_are_built_to_hurt(target: Target, tmp_path: Path) -> None:
    image = encoded(Image.new("RGB", (64, 48), "navy"), "PNG")
    zeros = archive(("a.png", b"\0" * 50_000_000))
    archives = {
        "slip": archive(("../../../private/evil.png", image), ("/etc/evil.png", image), ("..\\evil.png", image)),
        "link": archive((special("a.png", stat.S_IFLNK), str(target.secret).encode())),
        "device": archive((special("a.png", stat.S_IFCHR), b"")),
        "bomb": archive(*((f"{n}.png", b"\0" * 40_000_000) for n in range(10))),
        "nested": archive(("a.zip", zeros), ("b.zip", archive(("c.zip", zeros)))),
        "many": archive(*((f"{n}.png", b"") for n in range(5000))),
        "torn": zeros[: len(zeros) // 2],
        "no zip": b"PK\x03\x04" + b"\xff" * 1000,
    }
    before = {path for path in target.root.rglob("*") if "cache" not in path.parts and "labels" not in path.parts}
    for name, data in archives.items():
        started = time.monotonic()
        (path,) = target.upload(f"{name}.zip", data).json()
        project = target.call("create", {"name": f"zip {name}"}).json()["id"]
        preview = target.call("preview_source", {"source": path})
        brought = target.call("start_import", {"project": project, "source": path, "kind": "auto", "question": "What?"})
        assert preview.status_code == 200 and brought.status_code == 200
        while not (target.call("poll", {"project": project}).json().get("import") or {"is_over": True})["is_over"]:
            assert time.monotonic() - started < MAX_SECONDS, name
            time.sleep(0.1)
        reported = preview.text + target.call("poll", {"project": project}).text
        assert SECRET not in reported and "error of the program" not in reported, (name, reported)
    after = {path for path in target.root.rglob("*") if "cache" not in path.parts and "labels" not in path.parts}
    assert after == before, "nothing was unpacked by its name"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000, '{"a":' * 100_000, '{"name": NaN}', '{"name": "a", "name": "b"}',
        '{"seed": 1' + "0" * 5000 + "}",
        '{"name": "' + "a" * 1_000_000 + '"}', "a: &a [b, b]\nc: [*a, *a]\n", "!!python/object/apply:os.system [true]",
        '{"model": {"id": "/etc/passwd"}}', "\xff\xfe", "null", "7",
    ],
    ids=lambda text: text[:16],
)  # fmt: skip
def test_settings_that_are_built_to_hurt(target: Target, text: str) -> None:
    """Settings files are JSON, never YAML: an alias or a tag is invalid."""
    (path,) = target.upload("settings.json", text.encode("latin-1")).json()
    number = next(number for number, function in target.app.fns.items() if function.name == "use_file")
    started = time.monotonic()
    reported = target.trigger(number, [{"path": path, "meta": {"_type": "gradio.FileData"}}])
    assert "process_completed" in reported and time.monotonic() - started < MAX_SECONDS
    assert leaks(reported, target, names_roots=True) == [] and "root:x" not in reported
    if text.startswith(("[", '{"a"', '{"name": N', "a:", "!!", "null", "7")):
        assert json.loads(reported.split("data: ")[-2 if "close_stream" in reported else -1])["success"] is False
