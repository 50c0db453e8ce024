"""On a Space, permissions depend on the user, who is identified by the signed session only."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hart_studio.models.chat import ChatModel
from hart_studio.runs.config import RunConfig
from hart_studio.runs.presets import DEFAULT_PRESET, get_preset
from hart_studio.runs.writer import create_run
from hart_studio.ui.pages.train_form import WIDGETS, write_values
from hart_studio.ui.security.access import CLOSED, OWNER_ONLY
from tests.fakes import ScriptedModel
from tests.spaces import OWNER, PROJECT_ROOT, Caller, Space, list_functions, serve_space, sign_in

pytestmark = pytest.mark.integration

UNSIGNED = base64.b64encode(json.dumps({"oauth_info": {"userinfo": {"preferred_username": OWNER}}}).encode()).decode()
STRANGERS: dict[str, dict[str, str]] = {
    "anonymous": {},
    "headers": {
        "x-forwarded-user": OWNER, "x-remote-user": OWNER, "x-hf-user": OWNER, "person": OWNER, "authorization": OWNER
    },
    "an unsigned cookie": {"cookie": f"session={UNSIGNED}"},
    "a cookie with a made-up signature": {"cookie": f"session={UNSIGNED}.aaaa.bbbb; username={OWNER}; user={OWNER}"},
    "a cookie signed as off a Space": sign_in(OWNER, ""),
    "a cookie signed with another secret": sign_in(OWNER, "another secret"),
    "a session that is over": sign_in(OWNER, expires_in=-10),
    "someone else": sign_in("bob"),
    "someone of nearly the same name": sign_in("Ada"),
}  # fmt: skip
OWNERS_OWN = {"RunView", "RunsTable"}
SOME = {"list_runs", "delete", "start"}


def load(name: str) -> ChatModel:
    return ScriptedModel(grounding="[]", crops_only="\\boxed{A}", direct="\\boxed{A}", full_and_crops="\\boxed{A}")


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    source = PROJECT_ROOT / "assets" / "examples"
    row = json.loads((source / "examples.json").read_text("utf-8"))[2]
    shutil.copyfile(source / row["image"], folder / row["image"])
    (folder / "examples.json").write_text(json.dumps([row]), "utf-8")
    return folder


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Iterator[Space]:
    with serve_space(tmp_path_factory.mktemp("space"), load, examples) as served:
        served.launcher.queue.close()  # what the owner places waits
        yield served


@pytest.fixture(scope="module")
def run_id(space: Space) -> str:
    return create_run(space.root / "runs", "training", RunConfig(name="hidden run"), "ap_grpo", 10).run_id


def find_owners_functions(space: Space) -> list[tuple[int, str]]:
    """Functions of the components that show and start runs; of the two Evaluate pages the one that starts."""
    found = list_functions(space.app)
    makers = {component for component, _, name in found if name == "delete"}
    makers &= {component for component, _, name in found if name == "evaluations"}  # projects can be deleted, too
    return [(component, name) for component, kind, name in found if kind in OWNERS_OWN or component in makers]


@pytest.mark.parametrize("kind", STRANGERS)
def test_no_one_else_sees_or_touches_a_run(space: Space, run_id: str, kind: str) -> None:
    caller = Caller(space, STRANGERS[kind], session=OWNER, query=f"?person={OWNER}&username={OWNER}")
    request = {
        "run": run_id, "runs": [run_id], "benchmark": "needle", "person": {"preferred_username": OWNER}, "user": OWNER
    }  # fmt: skip
    functions = find_owners_functions(space)
    assert {"list_runs", "poll", "stop", "resume", "delete", "start", "evaluations", "compare"} <= {
        name for _, name in functions
    }
    # All of them for one stranger, and one of each kind for the others.
    for component, name in functions if kind == "anonymous" else [each for each in functions if each[1] in SOME]:
        assert caller.call(component, name, request) == {"error": OWNER_ONLY}, name
    assert (space.root / "runs" / run_id).is_dir()
    assert [path.name for path in (space.root / "runs").iterdir() if path.is_dir()] == [run_id]


def order(space: Space) -> list[Any]:
    """What the Train page sends: its base, no processor, and a value for each field."""
    config = get_preset(DEFAULT_PRESET).config
    assert len(WIDGETS) == len(write_values(config))
    return [None, [], "ddp", *write_values(config)]


@pytest.mark.parametrize("kind", STRANGERS)
def test_no_one_else_trains_publishes_or_opens_a_checkpoint(space: Space, run_id: str, kind: str) -> None:
    caller = Caller(space, STRANGERS[kind], session=f"{OWNER}{abs(hash(kind))}", query=f"?person={OWNER}")
    extra = {"person": {"preferred_username": OWNER}, "username": OWNER, "user": OWNER}
    assert OWNER_ONLY in caller.fire("start_run_of_form", order(space), **extra)
    assert OWNER_ONLY in caller.fire("publish", [None, "o/n", "hf_x", True, OWNER], **extra)
    if kind != "anonymous":
        return
    for name in ("run_preflight", "show_sample_preview"):
        assert OWNER_ONLY in caller.fire(name, order(space), **extra), name
    used = caller.fire("use_run", [run_id, OWNER], **extra)
    assert "hidden run" not in used and "process_completed" in used and '"success":false' in used.replace(" ", "")
    assert OWNER_ONLY in caller.fire("open_model", [], {"run": run_id, "step": 1}, **extra)
    assert OWNER_ONLY in caller.fire("train_on", [], {"project": "x"}, **extra)
    assert "hidden run" not in caller.fire("list_earlier", [], **extra)
    assert "hidden run" not in caller.fire("list_runs", [], **extra)
    assert "python" not in caller.fire("review", order(space), **extra).lower().replace("python app.py", "")


def test_the_owner_does(space: Space, run_id: str) -> None:
    owner = Caller(space, sign_in(OWNER))
    functions = {name: component for component, name in find_owners_functions(space)}
    listed = owner.call(functions["list_runs"], "list_runs", {"signature": ""})
    assert [row["id"] for row in listed["runs"]] == [run_id]
    reply = owner.call(functions["command"], "command", {"benchmark": "needle", "model": "built-in"})
    assert "hart_studio.evaluation" in reply["line"]
    assert "hidden run" in owner.fire("list_earlier", [])
    refused = owner.call(functions["start"], "start", {"benchmark": "needle", "model": "owner/unknown"})
    assert "not allowed on this server" in refused["error"], "the list of models holds for the owner, too"
    placed = owner.call(functions["start"], "start", {"benchmark": "needle", "model": "built-in", "limit": 1})
    assert (space.root / "runs" / placed["run"]).is_dir()
    for act in ("stop", "delete"):
        owner.call(functions[act], act, {"run": placed["run"], "now": True})


def test_a_visitor_is_answered_and_kept_to_the_list(space: Space) -> None:
    visitor = Caller(space)
    (space.root / "cache").mkdir(exist_ok=True)
    path = next((PROJECT_ROOT / "assets" / "examples").glob("3-*.jpg"))
    with path.open("rb") as file:
        uploaded = httpx.post(f"{space.url}gradio_api/upload", files={"files": ("p.jpg", file)}, timeout=60).json()[0]
    image = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
    assert '"answer":"A"' in visitor.fire("ask", [image, "How many?", "5\n4\n1\n3", "", "built-in", None])
    for name in ("owner/model", "/etc", str(PROJECT_ROOT / "assets" / "hart-tiny")):
        said = visitor.fire("ask", [image, "How many?", "5\n4\n1\n3", "", name, None])
        assert "not allowed on this server" in said and "HART_STUDIO_MODELS" in said


def test_the_label_page_lists_only_projects_of_the_session(space: Space) -> None:
    component = next(number for number, kind, _ in list_functions(space.app) if kind == "LabelPage")
    ada, bob = "a" * 64, "b" * 64
    for caller in (Caller(space), Caller(space, sign_in(OWNER))):
        assert caller.call(component, "create", {"session_token": ada, "name": f"Signs {caller.session[:4]}"})["id"]
        assert caller.call(component, "projects", {"session_token": bob}) == []
        assert "Session expired" in caller.call(component, "projects", {})["error"]
    names = {name for number, _, name in list_functions(space.app) if number == component}
    for name in names - {"create", "projects"}:
        answer = Caller(space).call(component, name, {"session_token": bob, "project": "signs"})
        assert "browser tab has no projects" in answer["error"], name


def test_without_a_sign_in_no_one_makes_anything(tmp_path: Path, examples: Path) -> None:
    """Without a secret, everyone could sign the session of a Space."""
    with serve_space(tmp_path, load, examples, OAUTH_CLIENT_SECRET="") as served:
        owner = Caller(served, sign_in(OWNER, ""))
        functions = [(number, name) for number, kind, name in list_functions(served.app) if kind in OWNERS_OWN]
        assert {name for _, name in functions}.isdisjoint({"stop", "resume", "delete"})
        assert all(owner.call(component, name, {"run": "x"}) == {"error": CLOSED} for component, name in functions)
