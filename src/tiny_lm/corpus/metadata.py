"""metadata.json of the corpus: where its documents come from, and counts and checksums of both splits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_lm.config import read_json
from tiny_lm.metadata import build, check_sha256

REMEDY = "`tiny-lm restore corpus` or `dvc pull` restores it, `dvc repro corpus` rebuilds it"
MAX_METADATA = 64 << 20  # bytes; it lists every file of a local source


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    documents: int
    characters: int
    bytes: int  # of UTF-8
    sha256: str  # of the texts
    file_sha256: str

    def __post_init__(self) -> None:
        check_sha256("sha256", self.sha256)
        check_sha256("file_sha256", self.file_sha256)


@dataclass(frozen=True, kw_only=True)
class Splits:
    train: SplitFacts
    val: SplitFacts


def read_metadata(path: Path) -> dict[str, Any]:
    """All of the metadata, of which `splits` is checked. ValueError, in one line, if it cannot be right."""
    values = read_json(path, MAX_METADATA, REMEDY)
    try:
        build(Splits, values.get("splits"), "splits")
        if not isinstance(values.get("source"), dict):
            raise ValueError("source must be an object")
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {REMEDY}") from None
    return values
