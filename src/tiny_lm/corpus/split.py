"""Splits documents into training and validation.

- `random`: by a hash of (seed, text) alone, so that a document stays in its split when others are added, removed or
  reordered, and copies of a text are never in both splits
- `tail`: the last fraction of the characters is for validation; the document at the cut is split in two. For a single
  document, this is nanoGPT's split (`data[:int(n*0.9)]`, `data[int(n*0.9):]`)
- `source`: the source's own splits
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from tiny_lm.corpus.filters import Filters, Limits
from tiny_lm.corpus.sources.base import DatasetParams, Source
from tiny_lm.documents import DocumentWriter, read_documents

SPLITS = ("train", "val")


def split_documents(
    source: Source, params: DatasetParams, filters: Filters, limits: Limits, folder: Path
) -> Generator[tuple[str, str], None, None]:
    """Yields (split, text) of each document of `source` that passes `filters` and `limits`.

    Documents are filtered before they are split, so `validation_fraction` is a fraction of those that pass. `tail` puts
    a temporary file into `folder`.
    """
    train = filters.apply(source.train)
    if params.validation == "source":
        assert source.val is not None
        yield from _limited((("train", text) for text in train), limits, ("train",))
        # after the training documents, so that of a text in both, the validation copy is the duplicate
        yield from _limited((("val", text) for text in filters.apply(source.val)), limits, ("val",))
        return
    assert params.validation_fraction is not None
    if params.validation == "random":
        yield from _limited(random_split(train, params.seed, params.validation_fraction), limits, SPLITS)
    else:
        # `tail` reads the source to its end anyway, so all documents over the limits are counted
        yield from _limited(tail_split(train, params.validation_fraction, filters, folder), limits, ())


def random_split(documents: Iterable[str], seed: int, fraction: float) -> Iterator[tuple[str, str]]:
    """Yields (split, text) in order; `fraction` is the probability of "val", decided by (seed, text)."""
    threshold = int(fraction * 2**64)
    for text in documents:
        data = f"{seed}\n{text}".encode("utf-8", "surrogatepass")
        number = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
        yield ("val" if number < threshold else "train"), text


def tail_split(documents: Iterable[str], fraction: float, filters: Filters, folder: Path) -> Iterator[tuple[str, str]]:
    """Yields (split, text) in order; "val" begins at character int(total · (1 - fraction)).

    This takes two passes, the second over a temporary file, because the total is known only at the end. Both parts of
    the document at the cut are filtered again: a part may be too short, or equal to another document.
    """
    path = folder / "documents.parquet"
    try:
        with DocumentWriter(path) as writer:
            for text in documents:
                writer.write(text)
        cut = int(writer.counts.characters * (1 - fraction))
        for text in read_documents(path):
            if cut <= 0:
                yield "val", text
            elif len(text) <= cut:
                yield "train", text
            else:
                for split, part in (("train", text[:cut]), ("val", text[cut:])):
                    if filters.keep(part):
                        yield split, part
            cut -= len(text)
    finally:
        path.unlink(missing_ok=True)


def _limited(pairs: Iterable[tuple[str, str]], limits: Limits, splits: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields the pairs within the limits. Stops reading when all of `splits`, if any, are full."""
    splits = tuple(splits)
    for split, text in pairs:
        if limits.take(split):
            yield split, text
            if splits and all(map(limits.full, splits)):
                limits.stopped_early = True
                return


def explain_empty(split: str, params: DatasetParams, filters: Filters) -> str:
    """The error message for a split without documents."""
    if filters.read == 0:
        return f"no documents in the source ({params.describe()}); check its contents"
    removed = ", ".join(f"{count} {reason}" for reason, count in filters.removed.items() if count)
    counts = f"{filters.read} read" + (f"; removed by filters: {removed}" if removed else "")
    if filters.read == 1 and not removed and params.validation == "random":
        advice = params.how_to_split()
    elif params.validation == "source":
        advice = "change dataset.min_chars, dataset.max_chars or the names of the splits"
    elif split == "val":
        advice = f"raise dataset.validation_fraction = {params.validation_fraction}"
        advice += ", or set dataset.validation = tail" if params.validation == "random" else ", or add text"
    else:
        advice = "add text, change dataset.min_chars or dataset.max_chars, or lower dataset.validation_fraction"
    return f"no documents in the {'validation' if split == 'val' else 'training'} split ({counts}); {advice}"
