"""Miniature versions of all benchmarks in their published formats: needle scenes in each schema, with its edge cases.

Each function writes one form into a folder and returns what a user would name: the folder, or a file in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hart_studio.needle.dataset import iterate_items, write_item
from hart_studio.needle.scenes import SceneSettings
from hart_studio.prompts import OPTION_LETTERS
from tests.benchmark_images import SMALL, Drawn, draw, lettered, pairs, save, write_parquet, write_tsv

NOT_THERE = "The image does not show it."
VSTAR_SUFFIX = "\nAnswer with the option's letter from the given choices directly."
BOX_REQUEST = " Please provide the bounding box coordinate of the region that can help you answer the question better."
MME_TASKS = (
    ("Perception", "Autonomous_Driving"),
    ("Perception", "OCR with Complex Context"),
    ("Reasoning", "Monitoring"),
    ("Reasoning", "Diagram and Table"),
)


def write_mme_realworld(folder: Path) -> Path:
    """JSON beside its images: five options in brackets, full-width ones in a Chinese row, two spellings of a key."""
    rows = []
    for number, drawn in pairs(6):
        task, subtask = MME_TASKS[number % 4]
        name = f"images/{number}.jpg"
        save(folder / name, drawn)
        opening, closing = "（）" if number == 3 else "()"
        pad = "" if number == 3 else " "
        choices = enumerate((*drawn.question.choices[:4], NOT_THERE))
        rows.append(
            {
                "Question_id": f"{task}/{subtask}/{number:04d}",
                "Image": name,
                "Text": "图中写的是什么？" if number == 3 else drawn.question.text,
                "Question Type" if number % 2 else "Question type": "Multiple Choice",
                "Answer choices": [f"{opening}{OPTION_LETTERS[at]}{closing}{pad}{text}" for at, text in choices],
                "Ground truth": drawn.question.letter,
                "Category": drawn.question.topic,
                "Subtask": subtask,
                "Task": task,
            }
        )
    (folder / "MME_RealWorld.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return folder


def write_mme_realworld_lite(folder: Path) -> Path:
    """Two Parquet files whose column ``bytes`` is text in base64."""
    for part, rows in enumerate((_mme_table(range(4)), _mme_table(range(4, 6)))):
        for row in rows:
            row["bytes"] = row.pop("image")
        write_parquet(folder / "data" / f"train-0000{part}-of-00002.parquet", rows)
    return folder


def write_mme_realworld_lite_tsv(folder: Path) -> Path:
    """A TSV whose options are the text of a Python list."""
    rows = [{**row, "multi-choice options": repr(row["multi-choice options"])} for row in _mme_table(range(6))]
    return write_tsv(folder / "mme_realworld_lite.tsv", rows)


def write_mme_realworld_train(folder: Path) -> Path:
    """Parquet with an image feature, its path, and options as text under a heading; no ids, no categories."""
    rows = []
    for number, drawn in pairs(8):
        listed = "\n".join(f"({OPTION_LETTERS[at]}) {text}" for at, text in enumerate(_five(drawn)))
        rows.append(
            {
                "question": drawn.question.text,
                "choices": f"The choices are listed below:\n{listed}\n",
                "answer": drawn.question.letter,
                "image": {"bytes": drawn.jpeg, "path": f"{number}.jpg"},
                "image_path": f"images/{number}.jpg",
            }
        )
    write_parquet(folder / "train-00000-of-00001.parquet", rows)
    return folder


def write_treebench(folder: Path) -> Path:
    """TSV: OCR rows hold their options, one row has seven; boxes in the wrong order, out of the image, outside of it.

    The last row is a bad one: nothing of its box is in the image.
    """
    rows = []
    for number, drawn in pairs(7):
        width, height = drawn.wh
        choices, category = list(drawn.question.choices), "Perception/Attributes"
        boxes = drawn.boxes
        if number == 1:
            category = "Perception/OCR"
            choices += [text for text in ("Q", "V", "W") if text not in choices]  # seven options, A to G
        if number == 2:
            category = "Reasoning/Comparison"
        if number == 3:
            boxes = [[x_max, y_max, x_min, y_min] for x_min, y_min, x_max, y_max in boxes]
        if number == 4:
            boxes = [[-20, -10, 60, 50], [width - 40, height - 30, width + 100, height + 9]]
        if number == 6:
            boxes = [*boxes, [width + 10, 0, width + 40, 40]]
        listed = "\n".join(f"{OPTION_LETTERS[at]}. {text}" for at, text in enumerate(choices))
        question = f"{drawn.question.text}\n{listed}" if category.endswith("OCR") else drawn.question.text
        rows.append(
            {
                "index": number,
                "image": drawn.base64,
                "question": question,
                "answer": drawn.question.letter,
                "multi-choice options": listed,
                "category": category,
                "l2-category": drawn.question.topic,
                "target_instances": repr(boxes),
            }
        )
    return write_tsv(folder / "TreeBench.tsv", rows)


def write_vstar(folder: Path) -> Path:
    """Questions in JSONL, and beside each image its boxes as ``[x, y, width, height]`` and the right option first."""
    lines = []
    for number, drawn in pairs(6):
        category = "relative_position" if len(drawn.question.choices) == 2 else "direct_attributes"
        stem = f"{category}/sa_{number}"
        save(folder / f"{stem}.jpg", drawn)
        boxes = [[x, y, x_max - x, y_max - y] for x, y, x_max, y_max in drawn.boxes]
        if number == 1:
            boxes[0][2] += 10_000  # out of the image on the right
        wrong = [text for text in drawn.question.choices if text != drawn.question.value]
        notes = {
            "target_object": [box.label for box in drawn.question.gold_boxes],
            "bbox": boxes,
            "question": drawn.question.text,
            "options": [drawn.question.value, *wrong],
        }
        (folder / f"{stem}.json").write_text(json.dumps(notes))
        listed = "\n".join(f"({OPTION_LETTERS[at]}) {text}" for at, text in enumerate(drawn.question.choices))
        lines.append(
            {
                "image": f"{stem}.jpg",
                "text": f"{drawn.question.text}\n{listed}{VSTAR_SUFFIX}",
                "category": category,
                "label": drawn.question.letter,
                "question_id": str(number),
            }
        )
    (folder / "test_questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_vstar_parquet(folder: Path) -> Path:
    """Parquet with an image feature and a list of choices, the answer a number from 0; no boxes."""
    rows = [
        {
            "image": {"bytes": drawn.jpeg, "path": None},
            "question": drawn.question.text,
            "choices": list(drawn.question.choices),
            "answer": OPTION_LETTERS.index(drawn.question.letter),
            "category": "direct_attributes",
            "question_id": number,
        }
        for number, drawn in pairs(4)
    ]
    write_parquet(folder / "test-00000-of-00001.parquet", rows)
    return folder


def write_vstar_tsv(folder: Path) -> Path:
    """TSV with a column per letter; questions with two options leave C and D empty."""
    rows = [
        {
            "index": number,
            "image": drawn.base64,
            "question": drawn.question.text,
            **lettered(drawn.question.choices),
            "answer": drawn.question.letter,
            "category": "direct_attributes",
        }
        for number, drawn in pairs(6)
    ]
    return write_tsv(folder / "VStarBench.tsv", rows)


def write_hr_bench_4k(folder: Path) -> Path:
    """TSV: three questions, each in four cycles of its options."""
    return _write_hr_bench(folder / "hr_bench_4k.tsv", range(3))


def write_hr_bench_8k(folder: Path) -> Path:
    """The same with other images, in the same folder."""
    return _write_hr_bench(folder / "hr_bench_8k.tsv", range(3, 6))


def write_mmstar(folder: Path) -> Path:
    """Parquet with images as bytes and options inside the questions; those of one row are letters themselves."""
    rows = []
    for number, drawn in pairs(6):
        choices = "ABCD" if number == 1 else drawn.question.choices
        listed = ", ".join(f"{OPTION_LETTERS[at]}: {text}" for at, text in enumerate(choices))
        rows.append(
            {
                "index": number,
                "question": f"{drawn.question.text}\nOptions: {listed}",
                "image": drawn.jpeg,
                "answer": drawn.question.letter,
                **_mmstar_categories(number),
                "meta_info": {"source": "needle", "split": "val", "image_path": f"images/{number}.jpg"},
            }
        )
    write_parquet(folder / "mmstar.parquet", rows)
    return folder


def write_mmstar_tsv(folder: Path) -> Path:
    """TSV with a column per letter, the options also in the question of every other row."""
    rows = []
    for number, drawn in pairs(6):
        listed = ", ".join(f"{OPTION_LETTERS[at]}: {text}" for at, text in enumerate(drawn.question.choices))
        rows.append(
            {
                "index": number,
                "image": drawn.base64,
                "question": f"{drawn.question.text}\nOptions: {listed}" if number % 2 else drawn.question.text,
                **lettered(drawn.question.choices),
                "answer": drawn.question.letter,
                **_mmstar_categories(number),
            }
        )
    return write_tsv(folder / "MMStar.tsv", rows)


def write_visual_cot(folder: Path) -> Path:
    """JSON per subset: boxes behind ``###``, some turned round or reaching out; others in conversations.

    Two subsets that the paper leaves out and a yes/no answer are not asked; the box of the last row of gqa is empty.
    """
    files: dict[str, list[dict[str, Any]]] = {}
    subsets = ("gqa", "sroie", "textcap", "textvqa", "v7w", "flickr30k", "docvqa", "gqa", "gqa")
    for number, drawn in pairs(len(subsets)):
        subset = subsets[number]
        name = f"cot/{subset}/{number}.jpg"
        save(folder / name, drawn)
        x_min, y_min, x_max, y_max = drawn.boxes[0]
        box = [x_min, y_min, x_max, y_max]
        answer = drawn.question.value
        if number == 1:
            box = [x_max, y_max, x_min, y_min]
        if number == 2:
            box = [x_min, y_min, drawn.wh[0] + 50, drawn.wh[1] + 3]
        if number == 7:
            answer = "Yes."
        if number == 8:
            box = [x_min, y_min, x_min, y_max]
        side = max(drawn.wh)
        squared = [round(edge / side, 3) for edge in box]
        said = [f"<image>\n{drawn.question.text}{BOX_REQUEST}", str(squared), "<image>", answer]
        speakers = ("human", "gpt", "human", "gpt")
        files.setdefault({"v7w": "visual7w"}.get(subset, subset), []).append(
            {
                "dataset": subset,
                "split": "val",
                "question_id": number % 3,  # not unique, as each subset counts for itself
                "image": [name, f"{name}###{box}"],
                "conversations": [{"from": who, "value": what} for who, what in zip(speakers, said, strict=True)],
            }
        )
    (folder / "benchmark").mkdir()
    for subset, rows in files.items():
        (folder / "benchmark" / f"{subset}.json").write_text(json.dumps(rows))
    return folder


def write_needle(folder: Path) -> Path:
    """Output of ``python -m hart_studio.needle``."""
    (folder / "images").mkdir()
    settings = SceneSettings(width=SMALL[0], height=SMALL[1], objects=(3, 5), radius=(0.08, 0.12))
    for item in iterate_items("test", 6, settings=settings):
        write_item(item, folder)
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "mme_realworld": write_mme_realworld,
    "mme_realworld_lite": write_mme_realworld_lite,
    "mme_realworld_train": write_mme_realworld_train,
    "treebench": write_treebench,
    "vstar": write_vstar,
    "hr_bench_4k": write_hr_bench_4k,
    "hr_bench_8k": write_hr_bench_8k,
    "mmstar": write_mmstar,
    "visual_cot": write_visual_cot,
    "needle": write_needle,
}
"""Name of each benchmark -> writer of its first format."""

COUNTS: dict[str, tuple[int, int]] = {
    "mme_realworld": (6, 0),
    "mme_realworld_lite": (6, 0),
    "mme_realworld_train": (8, 0),
    "treebench": (6, 1),
    "vstar": (6, 0),
    "hr_bench_4k": (12, 0),
    "hr_bench_8k": (12, 0),
    "mmstar": (6, 0),
    "visual_cot": (5, 1),
    "needle": (6, 0),
}
"""Name of each benchmark -> number of its valid and invalid rows in that format."""


def _five(drawn: Drawn) -> tuple[str, ...]:
    return (*drawn.question.choices, NOT_THERE)


def _mme_table(numbers: Sequence[int]) -> list[dict[str, Any]]:
    drawn_ones = [(number, drawn) for number, drawn in pairs(max(numbers) + 1) if number in numbers]
    return [
        {
            "index": number,
            "image": drawn.base64,
            "question": drawn.question.text,
            "multi-choice options": [f"({OPTION_LETTERS[at]}) {text}" for at, text in enumerate(_five(drawn))],
            "answer": drawn.question.letter,
            "category": "/".join(MME_TASKS[number % 4]),
            "l2-category": drawn.question.topic,
        }
        for number, drawn in drawn_ones
    ]


def _mmstar_categories(number: int) -> dict[str, str]:
    coarse = ("coarse perception", "math", "logical reasoning")[number % 3]
    return {"category": coarse, "l2_category": f"{coarse} {number % 2}"}


def _write_hr_bench(path: Path, numbers: Sequence[int]) -> Path:
    rows = []
    for number in numbers:
        drawn = draw(number)
        for cycle in range(4):
            turned = drawn.question.choices[cycle:] + drawn.question.choices[:cycle]
            rows.append(
                {
                    "index": 4 * number + cycle,
                    "question": drawn.question.text,
                    "answer": OPTION_LETTERS[turned.index(drawn.question.value)],
                    "category": "cross" if number % 2 else "single",
                    **lettered(turned),
                    "cycle_category": str(cycle),
                    "image": drawn.base64,
                }
            )
    return write_tsv(path, rows)
