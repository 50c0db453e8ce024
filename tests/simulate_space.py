"""Run the program in the environment of a Hugging Face Space, without the Hub: ``python -m tests.simulate_space``.

The source is copied to a tree that nothing may write to, the variables of a Space are set, the system's libGL is taken
away, and the page is used as visitors use it. Checks are printed; the exit code is 1 when something is not
as it should be. This is no proof for a real Space: no proxy, no sign-in at the Hub and no ZeroGPU are in it.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("app.py", "assets", "hart_studio", "docs", "README.md", "requirements.txt", "packages.txt")
VARIABLES = {
    "SYSTEM": "spaces",
    "SPACE_ID": "ada/hart",
    "SPACE_AUTHOR_NAME": "ada",
    "SPACE_REPO_NAME": "hart",
    "SPACE_HOST": "ada-hart.hf.space",
    "ACCELERATOR": "none",
    "CPU_CORES": "2",
    "MEMORY": "16Gi",
    "OAUTH_CLIENT_ID": "client",
    "OAUTH_CLIENT_SECRET": secrets.token_hex(16),
    "OAUTH_SCOPES": "openid profile",
    "OPENID_PROVIDER_URL": "http://127.0.0.1:9",
}
START_SECONDS = 120.0
WORK_SECONDS = 240.0
LIBRARY_FOLDERS = ("/usr/lib", "/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64")
HOOK = '''"""In place of a machine without libGL, where it cannot be hidden from this process alone."""
import sys

class _Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

sys.meta_path.insert(0, _Missing())
'''


class SpaceError(Exception):
    """A check failed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the simulation; return 1 if a check fails."""
    parser = argparse.ArgumentParser(prog="tests.simulate_space", description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="install requirements.txt into an environment of its own")
    parser.add_argument(
        "--thorough", action="store_true", help="let a labeling run and an evaluation come to their end"
    )
    parser.add_argument("--inside", nargs=2, metavar=("SOURCE", "PYTHON"), help=argparse.SUPPRESS)
    flags = parser.parse_args(argv)
    if flags.inside:
        return _become_program(Path(flags.inside[0]), flags.inside[1])
    with tempfile.TemporaryDirectory(prefix="space-", ignore_cleanup_errors=True) as folder:
        try:
            simulate(Path(folder), is_fresh=flags.fresh, is_thorough=flags.thorough)
        except SpaceError as failure:
            print(f"FAILED {failure}")
            return 1
    print("done: all as it should be")
    return 0


def simulate(folder: Path, *, is_fresh: bool = False, is_thorough: bool = False) -> None:
    """Run the simulation in an empty folder.

    Args:
        folder: For the source's copy, temporary files and the home of the program.
        is_fresh: Whether a new environment is made from ``requirements.txt``.
        is_thorough: Whether what takes a minute is waited for.

    Raises:
        SpaceError: If something is not as it should be.
    """
    source = copy_source(folder / "source")
    before = take_stock(source)
    python = make_environment(folder / "environment") if is_fresh else sys.executable
    for name in ("tmp", "home", "hook"):
        (folder / name).mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(HOOK, "utf-8")
    is_walled = can_wall_off()
    report(
        "read-only source and no libGL by " + ("mounts of its own" if is_walled else "permissions and an import hook")
    )
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "VIRTUAL_ENV") if name in os.environ}
    environment = {
        **kept, **VARIABLES, "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([] if is_walled else [str(folder / "hook")]),
    }  # fmt: skip
    log = folder / "log.txt"
    program = ["app.py", "--host", "127.0.0.1"]
    command = [python, *program]
    if is_walled:
        command = ["unshare", "--mount", sys.executable, str(Path(__file__).resolve()), "--inside", str(source), python]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=source, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        url = wait_for(lambda: find_address(process, log), START_SECONDS, "the page to come up")
        use_page(url, folder, is_thorough=is_thorough)
        check(process.poll() is None, "the program still runs", log)
        process.send_signal(signal.SIGTERM)
        check(process.wait(60) == 0, "SIGTERM ends it with exit code 0", log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    check(take_stock(source) == before, "nothing was written to the source")
    # Torch makes itself a folder there whenever it is imported, and leaves it empty.
    left = sorted(path.name for path in (folder / "tmp").iterdir() if not path.name.startswith("torchinductor_"))
    check(not left, "no temporary file is left behind" + (f", but {', '.join(left)}" if left else ""))


def use_page(url: str, folder: Path, *, is_thorough: bool) -> None:
    """Use the page as visitors do."""
    config = httpx.get(f"{url}/config", timeout=60).json()
    check(httpx.get(url, timeout=60).status_code == 200 and bool(config["components"]), "the page is served")
    client = Client(url, verbose=False, download_files=str(folder / "home"))
    image = ROOT / "assets" / "examples" / "3-dots.jpg"
    question = ("How many dots are on the white square?", "5\n4\n1\n3", "")
    reply = client.predict(handle_file(image), *question, "built-in-hart", ["crops_only"], api_name="/ask")
    answer = reply["protocols"]["crops_only"]["answer"]
    check(
        answer in list("ABCD") and bool(reply["boxes"]), f"/ask points at {len(reply['boxes'])} region, says {answer}"
    )
    for name in ("Qwen/Qwen2.5-VL-3B-Instruct", "/etc"):
        try:
            client.predict(handle_file(image), *question, name, ["direct"], api_name="/ask")
            raise SpaceError(f"{name} was opened")
        except Exception as error:
            check("not allowed on this server" in str(error), f"the model {name} is refused")

    large = folder / "home" / "large.png"
    Image.new("1", (10_000, 5_001)).save(large)
    try:
        client.predict(handle_file(large), *question, "built-in-hart", ["direct"], api_name="/ask")
        raise SpaceError("an image of more than 50 million pixels was decoded")
    except AppError as error:
        check("at most 50,000,000 pixels" in str(error), "an image that is too large for a Space is refused")

    props = {each["id"]: each["props"] for each in config["components"]}
    ids = {each.get("elem_id"): number for number, each in props.items()}
    start = next(each for each in config["dependencies"] if [ids["train-start"], "click"] in each["targets"])
    said = fire(url, start["id"], [props[number].get("value") for number in start["inputs"]])
    check("disabled on a public Space" in said, "training is refused")
    for name in ("stop", "delete", "list_runs"):
        answer = call(url, ids["run-view"], name, {"run": "x"})
        check("error" in answer or answer.get("status") == 404, f"{name} of runs is refused")

    label, token, stranger = ids["label-page"], secrets.token_hex(32), secrets.token_hex(32)
    project = {"session_token": token, "project": "signs"}
    check(call(url, label, "create", {**project, "name": "Signs"}) == {"id": "signs"}, "a visitor makes a project")
    call(url, label, "start_import", {**project, "source": upload(url, zip_image(image)), "question": question[0],
                               "choices": question[1]})  # fmt: skip
    message = wait_for(lambda: (call(url, label, "poll", project).get("import") or {}).get("message"), 60, "the import")
    check(message.startswith("1 added"), "and imports an image")
    check(call(url, label, "projects", {"session_token": stranger}) == [], "a stranger's list is empty")
    for name in ("poll", "export", "list_items"):
        answer = call(url, label, name, {**project, "session_token": stranger})
        check("browser tab has no projects" in answer.get("error", ""), f"and {name} of that project is refused")
    check("Session expired" in call(url, label, "projects", {}).get("error", ""), "without one nothing is answered")
    refused = call(url, label, "start_import", {**project, "source": "/etc/passwd"})
    check("Only uploaded files" in refused.get("error", ""), "no other file of the machine is read")
    if is_thorough:
        wait_for_work(url, ids, project)


def wait_for_work(url: str, ids: dict[str, int], project: dict[str, str]) -> None:
    """Run a labeling run and an evaluation to completion."""
    label, pages = ids["label-page"], ids["evaluate-page"]
    call(url, label, "start", {**project, "model": "built-in-hart", "rollouts": 2})
    ended = ("completed", "failed", "stopped", "lost")

    def find_end(rows: list[dict[str, Any]]) -> str | None:
        return next((row["state"] for row in rows if row["state"] in ended), None)

    state = wait_for(lambda: find_end(call(url, label, "poll", project)["runs"]), WORK_SECONDS, "the labeling run")
    check(state == "completed", "a visitor's labeling run is completed")
    statuses = ["new", "proposed", "auto_accepted"]
    found = call(url, label, "export", {**project, "format": "native", "statuses": statuses})
    marker = next(each for each in httpx.get(f"{url}/config").json()["components"] if each["id"] == label)
    base = marker["props"]["value"]["marker"]["url"].rsplit("/", 1)[0]
    archive = httpx.get(f"{base}/{found['archive']}", timeout=60)
    check(archive.status_code == 200 and zipfile.is_zipfile(io.BytesIO(archive.content)), "its labels are exported")
    run = call(url, pages, "evaluate_examples", {"model": "built-in-hart"})["run"]
    state = wait_for(
        lambda: find_end(call(url, pages, "evaluations", {})["evaluations"]), WORK_SECONDS, "the evaluation"
    )
    check(state == "completed", "an evaluation of the examples is completed")
    again = call(url, pages, "evaluate_examples", {"model": "built-in-hart"})
    check(again["run"] == run and "before" in again["message"], "and is not made twice")


def copy_source(target: Path) -> Path:
    """Copy the source of a Space, without files of runs, and remove write permission."""
    target.mkdir(parents=True)
    unwanted = shutil.ignore_patterns("__pycache__", "*.pyi", "*.pyc")
    for name in PARTS:
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, target / name, ignore=unwanted)
        elif place.is_file():
            shutil.copyfile(place, target / name)
    for path in [*target.rglob("*"), target]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return target


def take_stock(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> size and time of all files in a folder, and of folders that they are there.

    Without the stubs that gradio writes beside components wherever it may.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix != ".pyi":
            status = path.lstat()
            is_folder = path.is_dir()
            found[str(path.relative_to(folder))] = (0, 0) if is_folder else (status.st_size, status.st_mtime_ns)
    return found


def make_environment(folder: Path) -> str:
    """A new environment with ``requirements.txt``; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", str(ROOT / "requirements.txt")], check=True)
    return python


def can_wall_off() -> bool:
    """Whether a process may create its own mounts."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0


def _become_program(source: Path, python: str) -> int:
    """In mounts of its own: make the source read-only, hide libGL, and become the program."""
    subprocess.run(["mount", "--bind", str(source), str(source)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(source)], check=True)
    for folder in LIBRARY_FOLDERS:
        for library in Path(folder).glob("libGL.so*"):
            subprocess.run(["mount", "--bind", "/dev/null", str(library.resolve())], check=False)
    os.chdir(source)
    os.execv(python, [python, "app.py", "--host", "127.0.0.1"])  # noqa: S606 - arguments, no shell


def find_address(process: subprocess.Popen[bytes], log: Path) -> str | None:
    """Address in the output of the program."""
    text = log.read_text("utf-8", errors="replace")
    if process.poll() is not None:
        raise SpaceError(f"the program ended with {process.returncode}:\n{text[-3000:]}")
    found = re.search(r"http://127\.0\.0\.1:\d+", text.partition("Running on")[2])
    return found.group() if found else None


def call(url: str, component: int, name: str, request: dict[str, Any]) -> Any:
    """Call a server function of a component."""
    body = {"data": request, "fn_name": name, "component_id": component, "session_hash": "simulated"}
    answer = httpx.post(f"{url}/gradio_api/component_server", json=body, timeout=60)
    return answer.json() if answer.status_code == 200 else {"status": answer.status_code}


def fire(url: str, number: int, data: list[Any]) -> str:
    """Call an event handler; return all its messages."""
    session = secrets.token_hex(8)
    body = {"fn_index": number, "data": data, "session_hash": session}
    httpx.post(f"{url}/gradio_api/queue/join", json=body, timeout=60)
    said = []
    with httpx.stream("GET", f"{url}/gradio_api/queue/data?session_hash={session}", timeout=60) as stream:
        for line in stream.iter_lines():
            said.append(line)
            if "process_completed" in line:
                break
    return "\n".join(said)


def upload(url: str, data: bytes) -> str:
    """Upload a zip; return its path on the server."""
    return str(httpx.post(f"{url}/gradio_api/upload", files={"files": ("images.zip", data)}, timeout=60).json()[0])


def zip_image(path: Path) -> bytes:
    """A zip with one image."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.write(path, path.name)
    return data.getvalue()


def wait_for(poll: Callable[[], Any], seconds: float, what: str) -> Any:
    """Poll until there is a result."""
    deadline = time.monotonic() + seconds
    while not (found := poll()):
        if time.monotonic() > deadline:
            raise SpaceError(f"expected {what} within {seconds:.0f} s")
        time.sleep(0.2)
    return found


def report(text: str) -> None:
    """Print progress."""
    print(f"ok     {text}", flush=True)


def check(is_right: bool, text: str, log: Path | None = None) -> None:
    """Print the check, or fail."""
    if not is_right:
        raise SpaceError(text + (f"\n{log.read_text('utf-8', errors='replace')[-3000:]}" if log else ""))
    report(text)


if __name__ == "__main__":
    sys.exit(main())
