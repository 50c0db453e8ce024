"""Published results of the paper, in percent unless stated: reference rows and columns, never computed with.

Fig. 3 is published only as a drawing, so it has no numbers here.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Subtask(NamedTuple):
    """A sub-task of a benchmark, a column of its table."""

    category: str
    """Category of its questions, from coarse to fine."""
    title: str
    """Column head."""
    questions: int
    """Number of questions."""


class Published(NamedTuple):
    """A row of Table 2 or 3."""

    method: str
    """Name in the paper."""
    values: tuple[float, ...]
    """Accuracy per sub-task, in the order of the tasks."""
    overall: float
    """Published overall accuracy."""
    is_weighted: bool = True
    """Whether ``overall`` is the mean of ``values``, weighted by questions, to 0.1. The others cannot be checked."""


class PublishedJoint(NamedTuple):
    """A row of Table 1."""

    model: str
    """Base model."""
    is_looped: bool
    """Whether the model answered from crops alone."""
    counts: tuple[int, int, int, int]
    """Counts in the order of ``joint.CONTINGENCY_CELLS``; 4,042 in total."""
    wrong_box: float
    """P(wrong box | correct answer)."""


class PublishedLevels(NamedTuple):
    """A row of Table 5 or 7: accuracy on perception and on reasoning."""

    method: str
    """Name in the paper, with k where it has one."""
    mme_realworld_lite: tuple[float, float]
    """Perception and reasoning on MME-RealWorld-Lite."""
    treebench: tuple[float, float]
    """Perception and reasoning on TreeBench."""


MODEL: Final = "Qwen2.5-VL-7B"
"""Base model of all results that state no other."""

HART: Final = "HART-7B"
"""The paper's model: AP-GRPO, then SFT, with k 0.6."""

TABLE_1: Final = (
    PublishedJoint(MODEL, False, (1057, 1838, 466, 681), 36.5),
    PublishedJoint(MODEL, True, (502, 1830, 1028, 682), 21.5),
    PublishedJoint("InternVL3-8B", False, (1359, 770, 1578, 335), 63.8),
    PublishedJoint("InternVL3-8B", True, (998, 788, 1931, 325), 55.9),
)
"""Table 1: answer and box on Visual-CoT."""

MME_REALWORLD_TASKS: Final = (
    Subtask("Perception/Autonomous_Driving", "AD", 350),
    Subtask("Perception/Monitoring", "MO", 319),
    Subtask("Perception/OCR with Complex Context", "OCR", 250),
    Subtask("Perception/Remote Sensing", "RS", 150),
    Subtask("Perception/Diagram and Table", "DT", 100),
    Subtask("Reasoning/Autonomous_Driving", "AD", 400),
    Subtask("Reasoning/Diagram and Table", "DT", 100),
    Subtask("Reasoning/OCR with Complex Context", "OCR", 100),
    Subtask("Reasoning/Monitoring", "MO", 150),
)
"""Columns of Table 2 with the counts of MME-RealWorld-Lite."""

TABLE_2: Final = (
    Published(MODEL, (30.0, 27.3, 87.6, 32.7, 83.0, 23.0, 62.0, 72.0, 28.7), 42.3),
    Published("LLaVA-OneVision-7B", (39.4, 31.7, 80.0, 40.0, 56.0, 32.0, 33.0, 65.0, 38.0), 43.7),
    Published("InternVL3-8B", (36.9, 34.5, 83.6, 49.3, 75.0, 37.0, 44.0, 70.0, 40.0), 47.9),
    Published("SFT", (43.7, 43.6, 85.6, 55.3, 78.0, 41.0, 60.0, 70.0, 50.7), 54.0),
    Published("GRPO", (43.7, 42.9, 81.6, 51.3, 75.0, 38.3, 53.0, 67.0, 43.3), 51.3),
    Published("GRPO + SFT", (49.7, 47.0, 89.2, 55.3, 87.0, 39.0, 74.0, 77.0, 60.0), 58.1),
    Published("MGPO", (44.0, 46.7, 86.4, 54.0, 78.0, 39.3, 69.0, 74.0, 52.7), 55.1),
    Published("MGPO + SFT", (55.4, 49.8, 83.6, 59.3, 82.0, 47.8, 71.0, 71.0, 63.3), 60.5),
    Published("Pixel-Reasoner-7B", (30.9, 38.9, 89.6, 52.0, 86.0, 32.5, 72.0, 71.0, 46.0), 49.7, False),
    Published("DeepEyes-7B", (33.4, 43.3, 90.0, 52.7, 89.0, 35.0, 69.0, 76.0, 44.0), 53.2, False),
    Published(HART, (57.7, 49.8, 89.6, 58.7, 86.0, 51.0, 75.0, 72.0, 58.7), 62.4),
    Published("Qwen2.5-VL-32B", (40.7, 29.5, 87.2, 40.7, 83.0, 29.5, 60.0, 74.0, 27.3), 45.6, False),
    Published("InternVL3-38B", (40.0, 42.6, 85.6, 56.0, 71.0, 35.0, 45.0, 77.0, 47.3), 51.0),
    Published("Qwen2.5-VL-72B", (30.6, 27.9, 90.8, 34.0, 87.0, 25.5, 61.0, 74.0, 26.7), 43.7),
    Published("LLaVA-OneVision-72B", (40.0, 37.9, 79.2, 50.7, 67.0, 39.3, 41.0, 76.0, 38.7), 48.7),
    Published("GPT-4o-mini", (24.2, 26.5, 62.5, 6.7, 44.2, 26.8, 39.1, 47.0, 25.8), 36.4, False),
    Published("Gemini-1.5-Pro", (26.6, 31.1, 67.6, 14.0, 39.9, 19.2, 33.2, 52.7, 28.3), 38.2, False),
    Published("GPT-4o", (22.4, 33.9, 77.7, 28.9, 46.7, 26.4, 44.8, 61.4, 36.5), 45.2, False),
    Published("Claude 3.5 Sonnet", (40.8, 32.2, 72.5, 25.7, 67.4, 31.9, 61.2, 61.9, 41.8), 51.6, False),
)
"""Table 2: MME-RealWorld-Lite. The SFT, GRPO and MGPO rows are the MGPO paper's, from full fine-tuning."""

TREEBENCH_TASKS: Final = (
    Subtask("Perception/Attributes", "Attributes", 29),
    Subtask("Perception/OCR", "OCR", 68),
    Subtask("Perception/Material", "Material", 13),
    Subtask("Perception/Object Retrieval", "Obj. Retr.", 16),
    Subtask("Perception/Physical State", "Phy. State", 23),
    Subtask("Reasoning/Comparison", "Comparison", 44),
    Subtask("Reasoning/Ordering", "Ordering", 57),
    Subtask("Reasoning/Contact and Occlusion", "Con. & Oc.", 41),
    Subtask("Reasoning/Spatial Containment", "Spa. Cont.", 29),
    Subtask("Reasoning/Perspective Transform", "Per. Trans.", 85),
)
"""Columns of Table 3."""

TABLE_3: Final = (
    Published(MODEL, (55.2, 27.9, 53.8, 62.5, 56.5, 43.2, 35.1, 39.0, 44.8, 20.0), 37.0),
    Published("LLaVA-OneVision-7B", (55.2, 32.4, 53.8, 50.0, 56.5, 36.4, 22.8, 41.5, 72.4, 21.2), 37.3),
    Published("InternVL3-8B", (51.7, 33.7, 69.2, 56.3, 56.5, 43.2, 24.6, 39.0, 72.4, 21.2), 38.8),
    Published("GRPO", (44.8, 51.5, 46.2, 50.0, 56.5, 47.7, 28.1, 41.5, 44.8, 14.1), 38.0),
    Published("GRPO + SFT", (48.3, 47.1, 61.5, 50.0, 52.2, 43.2, 28.1, 43.9, 55.2, 15.3), 38.5),
    Published("MGPO", (51.7, 48.5, 61.5, 68.8, 56.5, 43.2, 35.1, 43.9, 44.8, 11.8), 39.5),
    Published("MGPO + SFT", (58.6, 48.5, 61.5, 56.3, 52.2, 40.9, 31.6, 51.2, 51.7, 14.1), 40.3),
    Published("DeepEyes-7B", (62.1, 51.5, 53.8, 68.8, 65.2, 47.7, 24.6, 36.6, 51.7, 11.8), 37.5, False),
    Published("Pixel-Reasoner-7B", (58.6, 48.5, 61.5, 50.0, 65.2, 40.9, 31.6, 39.0, 44.8, 14.1), 39.0),
    Published(HART, (62.1, 55.9, 61.5, 56.3, 52.2, 50.0, 35.1, 48.8, 62.1, 14.1), 43.7),
    Published("Qwen2.5-VL-32B", (51.7, 54.4, 53.8, 62.5, 69.6, 38.6, 33.3, 46.3, 62.1, 16.5), 42.5),
    Published("InternVL3-38B", (51.7, 51.5, 61.5, 68.8, 52.2, 38.6, 33.3, 56.1, 65.5, 12.9), 42.0),
    Published("Qwen2.5-VL-72B", (65.5, 48.5, 69.2, 56.3, 56.5, 38.6, 33.3, 51.2, 72.4, 11.8), 42.2),
    Published("LLaVA-OneVision-72B", (62.1, 36.8, 53.8, 62.3, 65.2, 47.7, 28.1, 53.7, 65.5, 12.9), 40.5),
    Published("Gemini-2.5-Flash", (48.3, 75.0, 53.9, 68.8, 69.6, 43.2, 19.3, 56.1, 72.4, 15.3), 45.9),
    Published("GPT-4o", (51.7, 69.1, 61.5, 43.8, 65.2, 43.2, 38.6, 48.8, 72.4, 18.8), 46.9),
    Published("Gemini-2.5-Pro", (51.7, 83.8, 61.5, 75.0, 56.5, 54.6, 36.8, 65.9, 86.2, 20.0), 54.1),
    Published("o3", (69.0, 79.4, 69.2, 68.8, 65.2, 50.0, 38.6, 61.0, 86.2, 22.4), 54.8),
)
"""Table 3: TreeBench."""

TABLE_4: Final = {
    MODEL: {"mmstar": 59.3, "vstar": 78.5, "hr_bench_4k": 70.1, "hr_bench_8k": 61.0},
    "InternVL3-7B": {"mmstar": 53.5, "vstar": 72.3, "hr_bench_4k": 70.8, "hr_bench_8k": 62.0},
    "LLaVA-OneVision-7B": {"mmstar": 56.7, "vstar": 70.7, "hr_bench_4k": 64.3, "hr_bench_8k": 59.8},
    HART: {"mmstar": 62.8, "vstar": 80.6, "hr_bench_4k": 71.1, "hr_bench_8k": 71.9},
}
"""Table 4: method -> benchmark -> accuracy. The paper does not say how it averages MMStar."""

TABLE_5: Final = (
    PublishedLevels(MODEL, (46.4, 35.9), (43.6, 33.2)),
    PublishedLevels(f"{MODEL}, HART", (64.9, 58.5), (57.0, 35.9)),
    PublishedLevels("InternVL3-8B", (51.1, 42.9), (46.3, 34.4)),
    PublishedLevels("InternVL3-8B, HART", (61.8, 54.8), (59.1, 35.9)),
)
"""Table 5: two base models, without the method and after it."""

TABLE_6: Final = {
    MODEL: (50.2, 66.0),
    "LLaVA-OneVision-7B": (38.3, 67.0),
    "InternVL3-8B": (15.1, 28.9),
    "GRPO": (51.0, 66.1),
    "MGPO": (51.3, 66.3),
    "AP-GRPO": (75.4, 77.7),
}
"""Table 6: TreeBench and Visual-CoT, share of gold boxes with IoG > 0.3. The paper does not say k; its default is
0.6."""

TABLE_7: Final = (
    TABLE_5[0],
    PublishedLevels("GRPO", (52.1, 49.1), (52.3, 32.0)),
    PublishedLevels("MGPO", (58.0, 50.5), (53.7, 31.2)),
    PublishedLevels("AP-GRPO, k 0.15", (51.2, 47.5), (51.0, 32.4)),
    PublishedLevels("AP-GRPO + SFT, k 0.15", (67.0, 56.9), (56.4, 31.6)),
    PublishedLevels("AP-GRPO, k 0.30", (53.6, 49.9), (55.0, 33.6)),
    PublishedLevels("AP-GRPO + SFT, k 0.30", (64.1, 56.0), (57.7, 34.8)),
    PublishedLevels("AP-GRPO, k 0.60", (53.3, 48.0), (52.3, 33.6)),
    PublishedLevels("SFT + AP-GRPO, k 0.60", (51.7, 48.1), (55.0, 32.4)),
    PublishedLevels("AP-GRPO + SFT, k 0.60", (64.9, 58.5), (57.0, 35.9)),
)
"""Table 7: stages and k. Its GRPO row is not that of Table 2."""

TABLE_8: Final = {"GRPO": (21.0, 17422), "MGPO": (30.7, 19130), "HART": (46.0, 18770)}
"""Table 8: seconds per step and MiB of GPU memory."""
