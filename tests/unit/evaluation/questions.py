"""Eight questions whose metrics are computed by hand in the tests."""

from __future__ import annotations

from hart_studio.evaluation.records import AnswerResult, Evaluation, SampleResult
from hart_studio.records import Box, Protocol, Score

GOLD = Box.from_xyxy((0, 0, 20, 20))
ON = Box.from_xyxy((0, 0, 20, 10))  # half of the gold box: IoG 0.5, IoU 0.5; 2 % of the image
NEAR = Box.from_xyxy((0, 0, 40, 40))  # all of it and three times as much: IoG 1, IoU 0.25; 16 % of the image
OFF = Box.from_xyxy((60, 60, 80, 80))  # 4 % of the image
FAR_GOLD = Box.from_xyxy((90, 90, 100, 100))


def answer_result(value: float | None, official: float | None = None, **changes: object) -> AnswerResult:
    """An answer; with the official extractor if its score is given."""
    values: dict[str, object] = {
        "score": Score(value=value, extracted="A" if value else "B", expected="A", rule="boxed" if value else "none"),
        "outcome": "ok",
        "text": "The answer is A.",
        **changes,
    }
    if official is not None:
        values["official"] = Score(value=official, extracted="A", expected="A", rule="mme:first_letter")
    return AnswerResult.model_validate(values)


def question(
    name: str, crops_only: AnswerResult | None, direct: AnswerResult | None, boxes: tuple[Box, ...], **changes: object
) -> SampleResult:
    answers = {"crops_only": crops_only, "direct": direct}
    values: dict[str, object] = {
        "sample_id": name,
        "category": "Perception/Attributes",
        "image_wh": (100, 100),
        "question": f"What is {name}?",
        "choices": ("red", "blue"),
        "answers": {protocol: found for protocol, found in answers.items() if found is not None},
        "boxes": boxes,
        "gold_boxes": (GOLD,),
        **changes,
    }
    return SampleResult.model_validate(values)


def eight_questions() -> tuple[SampleResult, ...]:
    """Four of Perception/Attributes, one of Perception/OCR, three of Reasoning/Ordering.

    | | crops only | direct | box | gold boxes found |
    | a | right | right | on it | 1 of 1 |
    | b | right | right | off it | 0 of 1 |
    | c | wrong | right | on it, large | 1 of 1 |
    | d | wrong | wrong | off it | 0 of 1 |
    | e | right | wrong | on one of two | 1 of 2 |
    | f | unscored | right | on it | 1 of 1 |
    | g | wrong | right | none | 0 of 1 |
    | h | could not be run | | | |
    """
    ordering = {"category": "Reasoning/Ordering"}
    return (
        question("a", answer_result(1.0, 1.0), answer_result(1.0, 1.0), (ON,)),
        question("b", answer_result(1.0, 0.0), answer_result(1.0, 1.0), (OFF,)),
        question("c", answer_result(0.0, 1.0), answer_result(1.0, 1.0), (NEAR,)),
        question("d", answer_result(0.0, 0.0), answer_result(0.0, 0.0), (OFF,)),
        question(
            "e",
            answer_result(1.0, 1.0),
            answer_result(0.0, 0.0),
            (ON,),
            category="Perception/OCR",
            gold_boxes=(GOLD, FAR_GOLD),
        ),
        question("f", answer_result(None), answer_result(1.0, 1.0), (ON,), **ordering),
        question("g", answer_result(0.0, 0.0, outcome="no_box"), answer_result(1.0, 1.0), (), **ordering),
        question("h", None, None, (), error="the image is cut short", **ordering),
    )


def evaluation(records: tuple[SampleResult, ...] | None = None, **changes: object) -> Evaluation:
    """The eight questions of ``treebench``, or others, with the answers of one model."""
    found = eight_questions() if records is None else records
    protocols: tuple[Protocol, ...] = ("crops_only", "direct")
    values: dict[str, object] = {
        "run_id": "20260102-030405-treebench-abcdef",
        "title": "tiny",
        "model": "tiny",
        "benchmark": "treebench",
        "protocols": protocols,
        "date": "2026-01-02",
        "records": found,
        "total": len(found),
    }
    return Evaluation(**{**values, **changes})  # type: ignore[arg-type]
