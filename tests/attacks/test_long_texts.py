"""Malicious model output of a megabyte: no parser takes quadratic time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from hart_studio.evaluation.extractors import EXTRACTORS
from hart_studio.extraction import extract_choice, extract_open
from hart_studio.parsing import parse_boxes
from hart_studio.records import Sample
from hart_studio.scoring import score_answer

SIZE = 1_000_000
MAX_SECONDS = 0.5
PARTS = (
    "<think></think>", "<think>", "</think>", "<answer>", "</answer>", "<answer></answer>", "answer is ", "answer is\n",
    "ANSWER IS  ", "option ", "(", "((A", "[", "[[", "[1,", "[1, 2, 3, 4],", "{", '{"bbox":', '{"bbox_2d": [1,2,3,4]},',
    "<box>", "<|box_start|>(1,2),(3,4)<|box_end|>", "\\boxed{", "{}", "}", "A ", "A. ", "*A*", "**", " ", "\n", "\t\n",
    "0", "1.", "-1e", ",", ".", "'", '"', "\\", "`", "```json\n", "the answer is ", "A) ", "final answer: ", "a", "é",
    "漢", "I choose ", "if ", "option B is ", "答案是", "选", "not A but ", "A.\n", "so ", "-> ", "(A)", "A is ", "1) ",
    "answer, ", "answer that I ", "correct option that ", "clearly ", "-", "it is ",
)  # fmt: skip


SAMPLE = Sample(
    id="a", image="a.png", question="Which?", choices=("red", "green", "blue", "a dog"), answer="B", source="s"
)
READERS: dict[str, Callable[[str], object]] = {
    **{name: lambda text, judge=judge: judge(text, SAMPLE) for name, judge in EXTRACTORS.items()},  # type: ignore[misc]
    "parse_boxes": parse_boxes,
    "extract_choice": lambda text: extract_choice(text, "ABCD", SAMPLE.choices),
    "extract_open": extract_open,
    "score_answer": lambda text: score_answer(text, SAMPLE.choices, "B"),
    "score_open_answer": lambda text: score_answer(text, (), "red"),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_megabyte_of_any_part_is_read_at_once(reader: str) -> None:
    read = READERS[reader]
    slow = {}
    for part in PARTS:
        text = (part * (SIZE // len(part) + 1))[:SIZE]
        for attack in (text, f"B{text}B"):
            times = []
            for _ in range(3):  # the least of some, on a busy machine
                began = time.process_time()
                read(attack)
                times.append(time.process_time() - began)
                if times[-1] < MAX_SECONDS:
                    break
            if min(times) >= MAX_SECONDS:
                slow[part] = round(min(times), 2)
    assert slow == {}
