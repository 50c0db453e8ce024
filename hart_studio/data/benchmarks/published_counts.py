"""Published numbers of questions per category, sizes and licenses, as far as they are known for sure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True)
class PublishedFacts:
    """Facts of a published benchmark besides its number of questions.

    Attributes:
        categories: Category, or the first levels of one -> number of questions; empty if unknown.
        size: Size of the files; empty if unknown.
        license: License; empty if unknown. The card of the Hub decides, and ``download`` shows it.
    """

    categories: Mapping[str, int] = field(default_factory=dict)
    size: str = ""
    license: str = ""


_ACADEMIC: Final = "academic use only"

_FACTS: Final = {
    "mme_realworld": PublishedFacts(license=_ACADEMIC),
    "mme_realworld_train": PublishedFacts(license=_ACADEMIC),
    "mme_realworld_lite": PublishedFacts(
        {
            "Perception/Autonomous_Driving": 350,
            "Perception/Monitoring": 319,
            "Perception/OCR with Complex Context": 250,
            "Perception/Remote Sensing": 150,
            "Perception/Diagram and Table": 100,
            "Reasoning/Autonomous_Driving": 400,
            "Reasoning/Diagram and Table": 100,
            "Reasoning/OCR with Complex Context": 100,
            "Reasoning/Monitoring": 150,
        },
        license=_ACADEMIC,
    ),
    "treebench": PublishedFacts(
        {
            "Perception/Attributes": 29,
            "Perception/Material": 13,
            "Perception/Physical State": 23,
            "Perception/Object Retrieval": 16,
            "Perception/OCR": 68,
            "Reasoning/Perspective Transform": 85,
            "Reasoning/Ordering": 57,
            "Reasoning/Contact and Occlusion": 41,
            "Reasoning/Spatial Containment": 29,
            "Reasoning/Comparison": 44,
        }
    ),
    "vstar": PublishedFacts({"direct_attributes": 115, "relative_position": 76}),
    "hr_bench_4k": PublishedFacts({"single": 400, "cross": 400}, size="1.93 GB"),
    "hr_bench_8k": PublishedFacts({"single": 400, "cross": 400}, size="4.63 GB"),
    "mmstar": PublishedFacts(
        dict.fromkeys(
            (
                "coarse perception",
                "fine-grained perception",
                "instance reasoning",
                "logical reasoning",
                "science & technology",
                "math",
            ),
            250,
        )
    ),
    "visual_cot": PublishedFacts({"gqa": 978, "sroie": 686, "textcap": 853, "textvqa": 525, "visual7w": 1000}),
}


def get_facts(benchmark: str) -> PublishedFacts:
    """Return the facts of a benchmark, without any for one that is not published."""
    return _FACTS.get(benchmark, PublishedFacts())
