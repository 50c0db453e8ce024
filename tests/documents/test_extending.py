"""Follow the guides of CONTRIBUTING.md for a format, benchmark, algorithm, tab and family, and check the result."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from hart_studio.errors import ModelError
from hart_studio.models.families import FAMILIES
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import PROTOCOLS
from tests.documents.pages import ROOT, Block, blocks

pytestmark = pytest.mark.timeout(660)

BLOCKS = blocks(ROOT / "CONTRIBUTING.md")


def tagged(name: str) -> list[tuple[str, Block]]:
    """(value, block) of each block with a tag ``name=value``."""
    pairs = [(tag.partition("="), block) for block in BLOCKS for tag in block.tags]
    return [(value, block) for (key, _, value), block in pairs if key == name]


def change(path: Path, difference: str) -> None:
    """Apply a short diff: remove lines with a minus; insert lines with a plus after the last matched one."""
    lines = path.read_text(encoding="utf-8").splitlines()
    at = -1
    for mark, text in ((line[:1], line[1:]) for line in difference.splitlines()):
        if mark == "+":
            at += 1
            lines.insert(at, text)
            continue
        assert lines.count(text) == 1, f"expected one line {text!r} in {path.name}, got {lines.count(text)}"
        at = lines.index(text)
        if mark == "-":
            del lines[at]
            at -= 1
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the additions of CONTRIBUTING.md."""
    root = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "hart_studio", root / "hart_studio", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "assets").symlink_to(ROOT / "assets")
    for name, block in tagged("file"):
        path = root / name
        if block.language == "diff":
            change(path, block.code)
        else:
            assert not path.exists()
            path.write_text(block.code, encoding="utf-8")
    return root


@pytest.fixture
def run(tree: Path, tmp_path: Path) -> Callable[..., str]:
    """Run a module of the copy; return its standard output."""

    def run_module(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run_module


def test_an_export_format(run: Callable[..., str], tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "navy").save(tmp_path / "a.png")
    row = {
        "image": "a.png",
        "annotations": [{"label": "sign", "coordinates": {"x": 20, "y": 20, "width": 8, "height": 6}}],
    }
    (tmp_path / "labels.json").write_text(json.dumps([row]))
    run("hart_studio.labeling", "create", "signs")
    run("hart_studio.labeling", "import", "signs", "labels.json", "--kind", "createml")
    (status,) = json.loads(run("hart_studio.labeling", "stats", "signs", "--json"))["statuses"]
    arguments = ["export", "signs", "out", "--format", "plain_boxes", "--status", status, "--splits", "1", "0", "0"]
    output = run("hart_studio.labeling", *arguments)
    assert "1 questions, 1 boxes on 1 train images" in output and "loss: " in output
    (found,) = json.loads((tmp_path / "out" / "boxes.json").read_text())
    assert found["boxes"] == [[16.0, 17.0, 24.0, 23.0, "sign"]]
    assert (tmp_path / "out" / found["image"]).is_file()
    run("hart_studio.labeling", "create", "again")
    assert "1 added" in run("hart_studio.labeling", "import", "again", "out", "--kind", "plain_boxes")


@pytest.mark.integration
def test_a_benchmark(run: Callable[..., str], tmp_path: Path) -> None:
    shutil.copy(ROOT / "assets" / "examples" / "3-dots.jpg", tmp_path / "dots.jpg")
    question = {
        "number": 7, "file": "dots.jpg", "question": "How many dots are on the white square?",
        "options": "5 | 4 | 1 | 3", "answer": "D", "kind": "counting",
    }  # fmt: skip
    (tmp_path / "signs.json").write_text(json.dumps([question, {**question, "number": 8, "file": "gone.jpg"}]))
    arguments = ["--benchmark", "sign_bench", "--path", ".", "--device", "cpu", "--runs-root", "runs"]
    output = run("hart_studio.evaluation", *arguments, "--allow-dropped")
    run_id = output.split("done: ")[1].split()[0]
    asked = json.loads((tmp_path / "runs" / run_id / "dataset_info.json").read_text())
    assert (asked["benchmark"], asked["samples"], asked["invalid_count"]) == ("sign_bench", 1, 1)
    run("hart_studio.evaluation", "report", run_id, "--out", "report")
    summary = (tmp_path / "report" / "tables" / "summary.csv").read_text().splitlines()
    assert [line for line in summary if ",sign_bench,crops_only," in line]


@pytest.mark.integration
def test_an_rl_algorithm(run: Callable[..., str]) -> None:
    changed = {name for name, _ in tagged("file") if name.startswith("hart_studio/algorithms/")}
    assert changed == {"hart_studio/algorithms/methods.py", "hart_studio/algorithms/credit.py"}
    settings = {
        "method.stages": "rloo", "schedule.rl_steps": 2, "data.rl_samples": 4, "data.eval_samples": 2,
        "model.device": "cpu", "rollout.group_size": 4,
    }  # fmt: skip
    arguments = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    found = json.loads(run("hart_studio.training", *arguments, "--json"))
    assert (found["state"], found["step"]) == ("completed", 2)
    assert found["stages"][0]["stage"] == "rloo" and "-rloo-" in found["run"]


def test_the_algorithm_of_the_guide_has_its_baseline(tree: Path, tmp_path: Path) -> None:
    code = (
        "from hart_studio.algorithms.credit import credit_group\n"
        "from hart_studio.algorithms.methods import METHODS\n"
        "found = credit_group([1, 0, 0, None], METHODS['rloo'], preference_scale=0.6, beta=0.1)\n"
        "print([round(each.advantage, 6) for each in found], found[0].policy_weight)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "[1.0, -0.5, -0.5, 0.0] 1.0\n", done.stderr


def test_a_tab(tree: Path, tmp_path: Path) -> None:
    code = (
        "import gradio as gr\n"
        "from hart_studio.ui.pages.families import build_families_tab\n"
        "import hart_studio.ui.app\n"
        "with gr.Blocks() as app:\n"
        "    with gr.Tabs(), gr.Tab('Families'):\n"
        "        build_families_tab()\n"
        "(shown,) = [block for block in app.blocks.values() if block.elem_id == 'families']\n"
        "print(shown.get_config()['value']['data'][0][0])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tree), "GRADIO_ANALYTICS_ENABLED": "False"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "Qwen2.5-VL" in done.stdout, done.stderr
    assert "build_families_tab()" in (tree / "hart_studio" / "ui" / "app.py").read_text()


@pytest.mark.integration
def test_a_family(tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hart_studio.models.loading import load_model  # noqa: PLC0415 - imports torch
    from hart_studio.pipeline.inference import ask_question  # noqa: PLC0415

    ((key, block),) = tagged("row")
    (tmp_path / "new_row.py").write_text(f"from hart_studio.models.families import *\n\nROW = {block.code}")
    monkeypatch.syspath_prepend(str(tmp_path))
    row = importlib.import_module("new_row").ROW
    assert row == FAMILIES[key]
    folder = tiny_folder(key)
    monkeypatch.delitem(FAMILIES, key)
    with pytest.raises(ModelError, match="has the unsupported model_type"):
        load_model(str(folder), device="cpu")
    monkeypatch.setitem(FAMILIES, key, row)
    model = load_model(str(folder), device="cpu")
    settings = LoopSettings(max_new_tokens=8)
    trace = ask_question(
        model, str(ROOT / "assets" / "examples" / "3-dots.jpg"), "How many dots?", [], None, PROTOCOLS, settings
    )
    assert trace.model.family == key
    assert set(trace.protocols) == set(PROTOCOLS)


def test_a_diff_that_does_not_match_fails(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("one\ntwo\nthree\n")
    change(file, " one\n+1.5\n-three\n+3\n+4\n")
    assert file.read_text() == "one\n1.5\ntwo\n3\n4\n"
    with pytest.raises(AssertionError, match="expected one line 'five'"):
        change(file, " five\n+6\n")
