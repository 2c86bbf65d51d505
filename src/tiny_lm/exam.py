"""The exam on disk: what is known about the validation documents because a generator wrote them. Nothing of others.

`data/exam/metadata.json` has the floor: the bits of the choices behind the validation stories, below which no model can
get. docs/exam.md explains both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tiny_lm.io.files import read_json, write_json

METADATA, MAX_METADATA = "metadata.json", 1 << 20  # bytes
REMEDY = "`tiny-lm restore corpus` or `dvc pull` restores it, `dvc repro corpus` rebuilds it"


@dataclass(frozen=True)
class Exam:
    """`floor_bits` are those of all validation documents together; None if nobody knows them."""

    floor_bits: float | None

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / METADATA, {"floor_bits": self.floor_bits})

    @classmethod
    def load(cls, folder: Path) -> Exam:
        """ValueError, in one line, if it cannot be right."""
        path = folder / METADATA
        values = read_json(path, MAX_METADATA, REMEDY)
        bits = values.get("floor_bits", "missing")
        if values.keys() != {"floor_bits"} or not (bits is None or (type(bits) is float and 0 <= bits < 1 << 62)):
            raise ValueError(f"{path}: floor_bits = {str(bits)[:80]!r}: must be a number, 0 or more, or null; {REMEDY}")
        return cls(bits)
