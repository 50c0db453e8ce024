"""Which items: one filter for lists, bulk actions and exports."""

from __future__ import annotations

from typing import Any, Final

from pydantic import Field

from hart_studio.labeling.records import EvidenceKind, Share, Status
from hart_studio.records import Record

IS_UNCALIBRATED: Final = "items.score IS NULL AND json_extract(items.label, '$.check.rollouts') > 0"
"""Condition of ``Label.is_uncalibrated`` on the table ``items``."""


class ItemFilter(Record):
    """Every condition that is set must hold."""

    statuses: tuple[Status, ...] = ()
    """Any of these; empty = every one."""
    min_score: Share | None = None
    """From this score on; an item without a score is then left out."""
    max_score: Share | None = None
    """Up to this score."""
    is_uncalibrated: bool = False
    """Only labels with evidence of a model that no calibration is valid for."""
    category: str | None = Field(default=None, max_length=500)
    """Kind of question."""
    reviewer: str | None = Field(default=None, max_length=120)
    """Who decided last."""
    evidence: EvidenceKind | None = None
    """Known answers, or agreement."""
    text: str = Field(default="", max_length=500)
    """Words that question, choices, answer, id or file name must all hold, in any case."""

    def to_sql(self) -> tuple[str, list[Any]]:
        """A condition on the table ``items`` with placeholders, and their values."""
        clauses: list[str] = ["1"]
        values: list[Any] = []
        if self.statuses:
            clauses.append(f"items.status IN ({', '.join('?' * len(self.statuses))})")
            values += self.statuses
        for clause, value in (
            ("items.score >= ?", self.min_score),
            ("items.score <= ?", self.max_score),
            ("items.category = ?", self.category),
            ("items.reviewer = ?", self.reviewer),
            ("items.evidence = ?", self.evidence),
        ):
            if value is not None:
                clauses.append(clause)
                values.append(value)
        if self.is_uncalibrated:
            clauses.append(IS_UNCALIBRATED)
        for word in self.text.casefold().split():
            clauses.append("instr(items.search_text, ?) > 0")
            values.append(word)
        return " AND ".join(clauses), values


ALL_ITEMS: Final = ItemFilter()
"""No condition."""
