"""The interface of a document source: params that open it, and the parts that it returns.

A new source is a file like stories.py, with a params class, and an entry in registry.py.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tiny_lm.executor import Executor
from tiny_lm.io.params import check

PART_BYTES = 2**25  # of a file: one part takes about a second
TEXTS_BYTES, TEXTS_IN_PART = 2**23, 2**15  # of a stream


class Part(Protocol):
    """Consecutive documents of a source, which any process can read, at any time."""

    def read(self) -> Iterator[str]: ...


@dataclass(frozen=True)
class Texts:
    """A part of a source that only this process can read: the documents themselves."""

    texts: Sequence[str]

    def read(self) -> Iterator[str]:
        return iter(self.texts)


def texts_in_parts(documents: Iterable[str]) -> Iterator[Texts]:
    """Yields a stream of documents as parts. How the stream is divided does not change the corpus."""
    texts: list[str] = []
    characters = 0
    for text in documents:
        texts.append(text)
        characters += len(text)
        if characters >= TEXTS_BYTES or len(texts) == TEXTS_IN_PART:
            yield Texts(texts)
            texts, characters = [], 0
    if texts:
        yield Texts(texts)


@dataclass(frozen=True)
class Source:
    """The parts of a source, in order, each read once. `val` are those of its own validation split, if it has one.

    `total` is the number of training documents, if known. `provenance` goes into metadata.json. `not_read` lists files
    that were found but will not be read.
    """

    train: Iterable[Part]
    val: Iterable[Part] | None
    total: int | None
    provenance: dict[str, Any]
    not_read: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DatasetParams:
    """The params of all sources: which documents to keep, and how to split them.

    params.yaml must contain `path`, whatever the source, because dvc.yaml refers to it.
    """

    source: str
    path: str = "data/raw"  # used with `source: local` and in mixtures only
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

    def open(self, progress: bool, executor: Executor) -> Source:
        """Raises ValueError, in one line, if the source does not exist or cannot be reached."""
        raise NotImplementedError

    def files(self) -> list[Path]:
        """The files under `path` that the source reads. ValueError if there should be some."""
        return []

    def remote(self) -> tuple[str, ...]:
        """The URLs that the source reads, which DVC watches only if dvc.yaml lists them."""
        return ()

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
