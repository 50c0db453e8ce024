"""Filter of items, for lists, bulk actions and exports."""

from __future__ import annotations

from typing import Any, Final

from pydantic import Field

from hart_studio.labeling.records import EvidenceKind, Share, Status
from hart_studio.records import Record

IS_UNCALIBRATED: Final = "items.score IS NULL AND json_extract(items.label, '$.check.rollouts') > 0"
"""SQL condition of ``Label.is_uncalibrated`` on the table ``items``."""


class ItemFilter(Record):
    """Conditions on items; all of them must hold."""

    statuses: tuple[Status, ...] = ()
    """Any of these statuses; empty = all."""
    min_score: Share | None = None
    """Minimum score; excludes items without a score."""
    max_score: Share | None = None
    """Maximum score; excludes items without a score."""
    is_uncalibrated: bool = False
    """Only labels with evidence of a model but without a valid calibration."""
    category: str | None = Field(default=None, max_length=500)
    """Question category."""
    reviewer: str | None = Field(default=None, max_length=120)
    """Last reviewer."""
    evidence: EvidenceKind | None = None
    """Known answer, or agreement."""
    text: str = Field(default="", max_length=500)
    """Words that must all occur in question, choices, answer, id or file name, ignoring case."""

    def to_sql(self) -> tuple[str, list[Any]]:
        """Build an SQL condition on the table ``items``, and the values of its placeholders."""
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
"""Filter without conditions."""
