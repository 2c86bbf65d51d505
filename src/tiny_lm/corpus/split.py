"""Assign each document to the training or the validation split.

`random`: by a hash of (seed, text) alone, so that a document keeps its split when others are added, removed or
reordered, and copies of a text are never in both splits. `tail`: the last fraction of the characters, in order; the
document at the cut is divided there. With a single document this is nanoGPT's split (`data[:int(n*0.9)]`,
`data[int(n*0.9):]`). `source`: the splits of the source.
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
    """(split, text) of each document of `source` that passes `filters` and `limits`, as a stream.

    Documents are filtered before they are split, so `validation_fraction` is a fraction of those that stay. `folder`
    is for the temporary file that `tail` needs.
    """
    train = filters.apply(source.train)
    if params.validation == "source":
        assert source.val is not None
        yield from _limited((("train", text) for text in train), limits, ("train",))
        # after the training documents, so that a text in both is the validation split's duplicate
        yield from _limited((("val", text) for text in filters.apply(source.val)), limits, ("val",))
        return
    assert params.validation_fraction is not None
    if params.validation == "random":
        yield from _limited(random_split(train, params.seed, params.validation_fraction), limits, SPLITS)
    else:
        # the source has been read to its end by then, so all documents over the limits are counted
        yield from _limited(tail_split(train, params.validation_fraction, filters, folder), limits, ())


def random_split(documents: Iterable[str], seed: int, fraction: float) -> Iterator[tuple[str, str]]:
    """(split, text) in order; a text goes to "val" with probability `fraction`, decided by (seed, text)."""
    threshold = int(fraction * 2**64)
    for text in documents:
        data = f"{seed}\n{text}".encode("utf-8", "surrogatepass")
        number = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
        yield ("val" if number < threshold else "train"), text


def tail_split(documents: Iterable[str], fraction: float, filters: Filters, folder: Path) -> Iterator[tuple[str, str]]:
    """(split, text) in order; "val" from character int(total · (1 - fraction)) on.

    This takes two passes, the second over a temporary file, since the total is known only at the end. Both parts of
    the divided document are filtered again: a part may be too short, or equal to another document.
    """
    path = folder / "documents.parquet"
    try:
        with DocumentWriter(path) as writer:
            for text in documents:
                writer.write(text)
        cut = int(writer.characters * (1 - fraction))
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
    """The pairs within the limits. Stops reading when all of `splits`, if any, are full."""
    splits = tuple(splits)
    for split, text in pairs:
        if limits.take(split):
            yield split, text
            if splits and all(map(limits.full, splits)):
                limits.stopped_early = True
                return


def explain_empty(split: str, params: DatasetParams, filters: Filters) -> str:
    """What to do about a split without documents, in one line."""
    if filters.read == 0:
        return f"no document in the source ({params.describe()}): check its contents"
    removed = ", ".join(f"{reason} {count}" for reason, count in filters.removed.items() if count)
    seen = f"{filters.read} {'document was' if filters.read == 1 else 'documents were'} read"
    seen += f", of which the filters removed: {removed}" if removed else ""
    if filters.read == 1 and not removed and params.validation == "random":
        advice = params.how_to_divide()
    elif params.validation == "source":
        advice = "change dataset.min_chars, dataset.max_chars or the names of the splits"
    elif split == "val":
        advice = f"raise dataset.validation_fraction = {params.validation_fraction}"
        advice += ", or set dataset.validation = tail" if params.validation == "random" else ", or add text"
    else:
        advice = "add text, change dataset.min_chars or dataset.max_chars, or lower dataset.validation_fraction"
    return f"no document for the {'validation' if split == 'val' else 'training'} split; {seen}: {advice}"
