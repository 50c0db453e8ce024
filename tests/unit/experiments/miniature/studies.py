"""Studies with small fake commands: no model, no image."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from hart_studio.experiments.miniature.processes import Commands
from hart_studio.experiments.miniature.variants import StudySize
from hart_studio.runs.layout import RunLayout

SIZE = StudySize(
    test_questions=3, changes={"data": {"needle_samples": 12, "rl_samples": 4, "sft_samples": 5, "eval_samples": 3}}
)

TRAIN = """
import sys, time
from pathlib import Path
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.writer import RunWriter
layout, habit = RunLayout(Path(sys.argv[1])), sys.argv[2]
with RunWriter(layout, total=1) as run:
    run.log_step(0, "", {"reward": 0.25})
    if habit == "fail":
        print("the disk is full of needles")
        raise ValueError("broken")
    while habit == "wait" and not run.is_stop_requested:
        time.sleep(0.02)
    if habit == "finish":
        run.log_step(1, "", {"reward": 0.5})
        (layout.folder / "model").mkdir(exist_ok=True)
"""

MEASURE = """
import json, sys, time
from pathlib import Path
model, out, wanted = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
began = time.monotonic()
while wanted and time.monotonic() < began + 200 and not list(Path(wanted).glob("*/events.jsonl")):
    time.sleep(0.02)
print("measure", model)
def judged(value):
    return {"score": {"value": value, "extracted": "A", "expected": "A", "rule": "boxed"}, "outcome": "ok"}
box = {"x_min": 0, "y_min": 0, "x_max": 20, "y_max": 50}
answers = {"direct": judged(1.0), "crops_only": judged(1.0), "full_and_crops": judged(0.0)}
rows = [{"sample_id": str(n), "category": "detail", "answers": answers, "image_wh": [100, 100],
         "boxes": [box], "gold_boxes": [box]} for n in range(3)]
out.write_text("".join(json.dumps(row) + chr(10) for row in rows))
"""

DRAW = """
import json, sys
from pathlib import Path
out, count = Path(sys.argv[1]), int(sys.argv[2])
(out / "images").mkdir(parents=True)
rows = [{"id": f"q{n}", "image": f"images/{n}.jpg", "question": f"Which {n}?", "choices": ["red", "blue"],
         "answer": "A", "gold_boxes": [[0, 0, 9, 9]]} for n in range(count)]
for n in range(count):
    (out / "images" / f"{n}.jpg").touch()
(out / "samples.jsonl").write_text("".join(json.dumps(row) + chr(10) for row in rows))
"""


def commands(failing: str = "", waiting: str = "", measure_after: Path | None = None) -> Commands:
    """Commands of which the trainings of one variant fail, or those of one variant continue until they are stopped.

    Args:
        failing: Name of a variant.
        waiting: Name of a variant.
        measure_after: Measuring begins once a run below this folder has written an event.
    """

    def train(layout: RunLayout) -> list[str]:
        variant = json.loads(layout.config.read_text())["name"].split(" ")[0]
        habit = {failing: "fail", waiting: "wait"}.get(variant, "finish")
        return [sys.executable, "-c", TRAIN, str(layout.folder), habit]

    def measure(model: str, data: Path, out: Path) -> list[str]:
        return [sys.executable, "-c", MEASURE, model, str(out), str(measure_after or "")]

    def draw(split: str, count: int, out: Path, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", DRAW, str(out), str(count)]

    return Commands(train, measure, draw)
