"""Verdict of each question, the order in which to review failures, and those that a report draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple, get_args

from hart_studio.evaluation.charts import SERIES_STYLES
from hart_studio.evaluation.records import Evaluation, SampleResult
from hart_studio.records import PROTOCOLS, Protocol

Verdict = Literal[
    "correct answer, wrong or no box",
    "wrong answer, correct box",
    "wrong answer, wrong box",
    "no valid box",
    "wrong answer",
    "unscored",
    "correct answer",
    "correct answer, correct box",
]
"""Verdict of a question under a protocol. Without a box part: the question has no gold box or no grounding turn.
``no valid box``: the answer is wrong and there is no valid box."""

VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)
"""Review order: correct answers with wrong boxes first, then questions where the box did not help, then
other failures."""

_FINE: Final = ("correct answer", "correct answer, correct box")
"""Verdicts that are no failures."""


class ModelAnswer(NamedTuple):
    """A question with the answer of one model."""

    name: str
    """Name of the model."""
    protocol: Protocol
    """Protocol of the answer."""
    record: SampleResult
    """Record of the question."""

    @property
    def verdict(self) -> Verdict:
        """Verdict of the question."""
        return get_verdict(self.record, self.protocol)

    @property
    def answer(self) -> str:
        """Extracted answer, or the text if nothing could be extracted."""
        answer_result = self.record.answers.get(self.protocol)
        if answer_result is None:
            return ""
        return answer_result.score.extracted or " ".join(answer_result.text.split())

    @property
    def expected(self) -> str:
        """Known answer."""
        answer_result = self.record.answers.get(self.protocol)
        return (answer_result.score.expected if answer_result else None) or ""


def get_verdict(record: SampleResult, protocol: Protocol) -> Verdict:
    """Return the verdict of a question.

    As in Table 1, a correct answer without a valid box counts as a correct answer with a wrong box.
    """
    answer_result = record.answers.get(protocol)
    if record.error or answer_result is None or answer_result.score.value is None:
        return "unscored"
    is_right = answer_result.score.value > 0
    if record.has_grounding_turn and not record.boxes and not is_right:
        return "no valid box"
    if not record.gold_matches:
        return "correct answer" if is_right else "wrong answer"
    if is_right:
        return "correct answer, correct box" if record.is_grounded else "correct answer, wrong or no box"
    return "wrong answer, correct box" if record.is_grounded else "wrong answer, wrong box"


def count_verdicts(records: Iterable[SampleResult], protocol: Protocol) -> dict[Verdict, int]:
    """Verdict -> number of questions, for those that occur, in the order of ``VERDICTS``."""
    counts = Counter(get_verdict(record, protocol) for record in records)
    return {verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]}


def filter_records(
    records: Iterable[SampleResult],
    protocol: Protocol,
    *,
    verdicts: Sequence[Verdict] = (),
    category: str = "",
    text: str = "",
) -> list[SampleResult]:
    """Filter questions by all given conditions, in order; an empty condition fits all.

    ``category`` may be the first levels of one. ``text`` is a part of the question, its id, or the model's answer,
    ignoring case.
    """
    wanted = text.casefold()
    return [
        record
        for record in records
        if (not verdicts or get_verdict(record, protocol) in verdicts)
        and f"{record.category}/".startswith(f"{category}/" if category else "")
        and wanted in _searched(record, protocol)
    ]


def sort_records(records: Iterable[SampleResult], protocol: Protocol) -> list[SampleResult]:
    """Sort worst first: by verdict, then by overlap (IoG + IoU); stable."""
    return sorted(records, key=lambda record: (VERDICTS.index(get_verdict(record, protocol)), _overlap(record)))


def default_protocol(evaluation: Evaluation) -> Protocol:
    """Protocol of the failures: crops_only if it was asked."""
    return next(protocol for protocol in PROTOCOLS if protocol in evaluation.protocols)


def select_failures(evaluations: Sequence[Evaluation], most: int) -> list[list[ModelAnswer]]:
    """Select at most ``most`` failures of evaluations of one benchmark, worst first, with the answers of all of them.

    At most six evaluations are shown, because more colors are hard to distinguish. They alternate, so that one with
    many failures does not fill the list.
    """
    included = [evaluation for evaluation in evaluations if evaluation.protocols][: len(SERIES_STYLES)]
    by_id = [{record.sample_id: record for record in evaluation.records} for evaluation in included]
    queues = [
        [record.sample_id for record in sort_records(found.records, default_protocol(found))] for found in included
    ]
    chosen: dict[str, list[ModelAnswer]] = {}
    for place in range(max((len(queue) for queue in queues), default=0)):
        for queue, evaluation, records in zip(queues, included, by_id, strict=True):
            if place >= len(queue) or len(chosen) >= most or queue[place] in chosen:
                continue
            if _show(evaluation, included, records[queue[place]]).verdict in _FINE:
                continue
            chosen[queue[place]] = [
                _show(other, included, found[queue[place]])
                for other, found in zip(included, by_id, strict=True)
                if queue[place] in found
            ]
    return sorted(chosen.values(), key=lambda shown: min(VERDICTS.index(each.verdict) for each in shown))


def select_contrast(failures: Sequence[list[ModelAnswer]]) -> list[ModelAnswer] | None:
    """Question for Fig. 4: the one with the greatest difference between models; None without failures."""
    return max(failures, key=lambda shown: len({each.verdict for each in shown}), default=None)


def _overlap(record: SampleResult) -> float:
    return max((gold.iog for gold in record.gold_matches), default=0.0) + (
        record.mean_iou if record.gold_matches else 0.0
    )


def _searched(record: SampleResult, protocol: Protocol) -> str:
    answer_result = record.answers.get(protocol)
    return "\n".join((record.sample_id, record.question, answer_result.text if answer_result else "")).casefold()


def _show(evaluation: Evaluation, among: Sequence[Evaluation], record: SampleResult) -> ModelAnswer:
    return ModelAnswer(evaluation.label(among), default_protocol(evaluation), record)
