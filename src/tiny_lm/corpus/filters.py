"""Filters by content: drop documents that are blank, too short or too long."""

from __future__ import annotations

from dataclasses import dataclass

REASONS = ("blank", "too_short", "too_long")


@dataclass(frozen=True, kw_only=True)
class Filters:
    min_chars: int
    max_chars: int | None

    def reason(self, text: str) -> str | None:
        """Why to drop a text; None to keep it."""
        if not text or text.isspace():
            return "blank"
        if len(text) < self.min_chars:
            return "too_short"
        if self.max_chars is not None and len(text) > self.max_chars:
            return "too_long"
        return None
