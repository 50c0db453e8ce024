"""No field of a page makes the server call another server: a listener receives no connection."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import gradio.processing_utils
import httpx
import pytest

from hart_studio.labeling.importing import get_invalid_rows, import_source
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.sources import SourceSettings
from tests.attacks.targets import Canary, Target
from tests.attacks.test_paths import KEYS
from tests.labels import draw_image

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """URLs that Gradio was about to fetch: it allows public ones, which the listener cannot see."""
    found: list[str] = []

    async def note(url: str, cache_dir: str) -> str:
        found.append(url)
        raise ValueError(f"not from a test: {url} to {cache_dir}")

    monkeypatch.setattr(gradio.processing_utils, "async_ssrf_protected_download", note)
    return found


def addresses(canary: Canary) -> list[str]:
    return [
        f"{canary.url}/x.png", canary.url.replace("127.0.0.1", "localhost"), canary.url.replace("http", "HTTP"),
        f" {canary.url}/x.png", f"//{canary.url[7:]}/x.png", canary.url.replace("127.0.0.1", "2130706433"),
        f"ftp://{canary.url[7:]}/x", "http://public.example/x.png", "https://169.254.169.254/latest/meta-data",
    ]  # fmt: skip


def test_an_address_is_no_uploaded_file(target: Target, canary: Canary, fetched: list[str]) -> None:
    for address in addresses(canary):
        file = {"path": address, "url": address, "meta": {"_type": "gradio.FileData"}}
        for endpoint in ("ask", "locate", "verify"):
            for image in (file, [file], {"image": file}):
                assert "Expected an uploaded file" in target.ask(image, endpoint), (endpoint, image)
    assert "event: error" in target.ask(addresses(canary)[0])
    for number, function in target.app.fns.items():
        refused = target.trigger(number, [file] * max(1, len(function.inputs)))
        assert "Expected an uploaded file" in refused, number
    assert fetched == [] and canary.hits == []


def test_the_server_is_no_relay(target: Target, canary: Canary, fetched: list[str]) -> None:
    for address in addresses(canary):
        for prefix in ("file=", "file/", "proxy="):
            answer = httpx.get(f"{target.url}gradio_api/{prefix}{address.strip()}")
            assert answer.status_code in {400, 403, 404}, (prefix, address)
    assert fetched == [] and canary.hits == []


def test_no_name_in_a_call_is_called(target: Target, canary: Canary) -> None:
    names = dict.fromkeys(name for _, name in target.server_functions)
    with httpx.Client() as client:
        for name in names:
            for address in addresses(canary)[:3]:
                data: dict[str, Any] = {**dict.fromkeys(KEYS, address), "runs": [address], "source": address}
                assert target.call(name, data, client).status_code == 200
                data |= {"project": "signs", "run": target.evaluation, "benchmark": "needle"}
                if name not in {"start", "delete"}:
                    assert target.call(name, data, client).status_code == 200
    time.sleep(0.5)  # an import continues in the background
    assert canary.hits == []


def test_images_of_rows_are_files_not_addresses(tmp_path: Path, canary: Canary) -> None:
    rows = [
        {"image": address, "question": "What?", "answer": "A", "choices": ["a", "b"]} for address in addresses(canary)
    ]
    draw_image(tmp_path / "here.png")
    rows.append({**rows[0], "image": "here.png"})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    project = create_project(tmp_path / "p", "p")
    report = import_source(project, str(path), SourceSettings(), lambda done, total: None)
    assert report.added == 1 and len(get_invalid_rows(project, 100)) == len(rows) - 1
    assert canary.hits == []
