"""The interface of a document source: params that open it, and the streams that it returns.

A new source is a file like stories.py, with a params class, and an entry in registry.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tiny_lm.io.params import check


@dataclass(frozen=True)
class Source:
    """Streams of documents, each read once, training first. `val` is the source's own validation split, if it has one.

    `total` is the number of training documents, if known. `provenance` goes into metadata.json. `not_read` lists files
    that were found but will not be read.
    """

    train: Iterator[str]
    val: Iterator[str] | None
    total: int | None
    provenance: dict[str, Any]
    not_read: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DatasetParams:
    """The params of all sources: which documents to keep, and how to split them.

    params.yaml must contain `path`, whatever the source, because dvc.yaml refers to it.
    """

    source: str
    path: str = "data/raw"  # used with `source: local` only
    seed: int = 0  # for validation: random
    validation: str = "random"
    validation_fraction: float | None = 0.02
    min_chars: int = 1  # shorter documents are dropped
    max_chars: int | None = None  # longer documents are dropped; null: no limit
    deduplicate: bool = True  # drop exact duplicates
    max_train_documents: int | None = None  # null: no limit
    max_val_documents: int | None = None

    reads_path = False  # not a param; True if the source reads `path`

    def __post_init__(self) -> None:
        if not self.reads_path:
            check(self.path == "data/raw", "path", self.path, "data/raw (only source: local reads another path)")
        check(self.seed >= 0, "seed", self.seed, "0 or more")
        fraction = self.validation_fraction
        if self.validation == "source":
            check(fraction is None, "validation_fraction", fraction, "null with validation: source")
        else:
            between = fraction is not None and 0 < fraction < 1
            check(between, "validation_fraction", fraction, "between 0 and 1, exclusive")
        check(self.min_chars >= 1, "min_chars", self.min_chars, "1 or more")
        longest, allowed = self.max_chars, f"null, or at least min_chars = {self.min_chars}"
        check(longest is None or longest >= self.min_chars, "max_chars", longest, allowed)
        for key in ("max_train_documents", "max_val_documents"):
            limit = getattr(self, key)
            check(limit is None or limit >= 1, key, limit, "null, or 1 or more")

    def open(self, progress: bool) -> Source:
        """Raises ValueError, in one line, if the source does not exist or cannot be reached."""
        raise NotImplementedError

    def describe(self) -> str:
        """The source, for messages."""
        return f"dataset.source = {self.source}"

    def how_to_split(self) -> str:
        """For messages: what to do about a single document, which `validation: random` cannot split."""
        return "set dataset.validation = tail"


def shorten(names: Sequence[str]) -> str:
    """The first five names and the number of the others, for messages."""
    shown = [name if name.isprintable() else repr(name)[1:-1] for name in names[:5]]
    return ", ".join(shown) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
