"""Splits documents into training and validation, without duplicates and within the limits.

- `random`: by a hash of (seed, text) alone, so that a document stays in its split when others are added, removed or
  reordered, and copies of a text are never in both splits
- `tail`: the last fraction of the characters is for validation; the document at the cut is split in two. For a single
  document, this is nanoGPT's split (`data[:int(n*0.9)]`, `data[int(n*0.9):]`)
- `source`: the source's own splits
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np
from tqdm import tqdm

from tiny_lm.corpus.drafts import FACTS, Chunk, Draft, Scan, fingerprint, first_of, scan, write_draft
from tiny_lm.corpus.duplicates import find_duplicates, occurs
from tiny_lm.corpus.filters import REASONS, Filters
from tiny_lm.corpus.mixture import Component
from tiny_lm.corpus.segments import Segment, count, select, take, whole, without
from tiny_lm.corpus.sources.base import DatasetParams, Part, Source
from tiny_lm.executor import Executor

SPLITS = ("train", "val")


@dataclass
class Selection:
    """What is kept of a source: the segments of each split, and counts. `chunks` is all that was read, in order."""

    splits: dict[str, list[Segment]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    chunks: list[Chunk] = field(default_factory=list)
    read: int = 0
    removed: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*REASONS, "duplicate"), 0))
    over_limit: int = 0
    stopped_early: bool = False  # all splits were full before the source ended

    def numbers(self, split: str) -> list[int]:
        """The numbers of a split's documents in the source."""
        starts = np.cumsum([0, *(chunk.read for chunk in self.chunks)])
        names = {draft.name: int(starts[i]) for i, chunk in enumerate(self.chunks) for draft in chunk.drafts.values()}
        numbers: list[int] = []
        for segment in self.splits[split]:
            numbers += (names[segment.draft.name] + segment.draft.facts()["place"][segment.kept()]).tolist()
        return numbers


def select_documents(
    sources: Sequence[tuple[Component, Source]], executor: Executor, folder: Path, bar: tqdm[NoReturn]
) -> list[Selection]:
    """Reads the sources and selects the documents of each. Drafts are written into `folder`.

    Of equal texts, the first is kept: in the order of the sources, and within a source, training before validation. So
    a source changes nothing of those before it. Documents are filtered before they are split, so `validation_fraction`
    is a fraction of those that pass. `bar` counts the documents read.
    """
    readers: list[_Reader] = []
    for number, (component, source) in enumerate(sources):
        earlier = [draft for reader in readers for draft in reader.drafts()]
        (folder / str(number)).mkdir()
        readers.append(_Reader(component.params, executor, folder / str(number), bar, earlier))
        with component.errors():
            readers[-1].read_source(source)
    drafts = [draft for reader in readers for draft in reader.drafts()]
    deduplicate = sources[0][0].params.deduplicate  # the same for all
    segments = iter(_unique(executor, drafts) if deduplicate else map(whole, drafts))
    divided: list[tuple[int, int]] = []  # fingerprints of the parts of documents that `tail` divided
    return [reader.selection(list(islice(segments, len(reader.drafts()))), drafts, divided) for reader in readers]


def _unique(executor: Executor, drafts: Sequence[Draft], first: int = 0) -> list[Segment]:
    """The segments of the drafts from the first on, without copies of what comes before, in any of the drafts."""
    return without(executor, drafts[first:], find_duplicates(executor, drafts)[first:])


class _Reader:
    """Reads the parts of a source into chunks, until the limits are reached, and selects documents of them."""

    def __init__(
        self,
        params: DatasetParams,
        executor: Executor,
        folder: Path,
        bar: tqdm[NoReturn],
        earlier: Sequence[Draft],
    ) -> None:
        self._chunks: list[Chunk] = []
        self._stopped = False
        self._filters = Filters(min_chars=params.min_chars, max_chars=params.max_chars)
        self._limits = {"train": params.max_train_documents, "val": params.max_val_documents}
        self._params, self._executor, self._folder, self._bar = params, executor, folder, bar
        self._earlier = earlier  # of the sources before

    def read_source(self, source: Source) -> None:
        if self._params.validation == "source":
            assert source.val is not None
            self._read(source.train, "train", {"train": self._limits["train"]})
            # after the training documents, so that of a text in both, the validation copy is the duplicate
            self._read(source.val, "val", {"val": self._limits["val"]})
        elif self._params.validation == "random":
            self._read(source.train, None, self._limits)
        else:
            self._read(source.train, "train", {})

    def _read(self, parts: Iterable[Part], split: str | None, limits: Mapping[str, int | None]) -> None:
        """Reads until all splits in `limits` are full, if all have one."""
        first = len(self._chunks)
        wanted = {name: limit for name, limit in limits.items() if limit is not None}
        needed = dict(wanted) if wanted and len(wanted) == len(limits) else None
        have = Counter[str]()
        for chunks in self._executor.ordered(scan, self._tasks(parts, split)):
            for chunk in chunks:
                self._chunks.append(chunk)
                self._bar.update(chunk.read)
                if needed is None:
                    continue
                for name, draft in chunk.drafts.items():
                    have[name] += draft.documents
                if any(have[name] < needed[name] for name in needed):
                    continue
                kept = self._kept()
                short = {name: wanted[name] - count(kept[name]) for name in wanted}
                if all(missing <= 0 for missing in short.values()):
                    self._stop(max(self._last(kept[name], limit, first) for name, limit in wanted.items()))
                    return
                for name, missing in short.items():  # some were duplicates, and there will be more of them
                    needed[name] = have[name] + max(missing, have[name] // 16) if missing > 0 else 0

    def _tasks(self, parts: Iterable[Part], split: str | None) -> Iterator[Scan]:
        params = self._params
        for number, part in enumerate(parts):
            yield Scan(
                part=part,
                name=str(self._folder / f"{split or 'random'}-{number:06d}"),
                filters=self._filters,
                split=split,
                seed=params.seed,
                threshold=int((params.validation_fraction or 0) * 2**64),
            )

    def drafts(self) -> list[Draft]:
        """Those of all training documents first."""
        return [chunk.drafts[split] for split in SPLITS for chunk in self._chunks if split in chunk.drafts]

    def _kept(self) -> dict[str, list[Segment]]:
        """The documents read so far, without copies of earlier ones."""
        drafts = self.drafts()
        if not self._params.deduplicate:
            return self._by_split(list(map(whole, drafts)))
        return self._by_split(_unique(self._executor, [*self._earlier, *drafts], len(self._earlier)))

    def _by_split(self, segments: Sequence[Segment]) -> dict[str, list[Segment]]:
        """Divides the segments of all drafts, and leaves out empty ones."""
        n = sum("train" in chunk.drafts for chunk in self._chunks)
        splits = {"train": segments[:n], "val": segments[n:]}
        return {split: [segment for segment in splits[split] if segment.documents] for split in SPLITS}

    def _last(self, segments: Sequence[Segment], limit: int, first: int) -> tuple[int, int]:
        """The (chunk, place) of the document with which a split is full."""
        chunks = enumerate(self._chunks[first:], first)
        names = {draft.name: i for i, chunk in chunks for draft in chunk.drafts.values()}
        segment = take(segments, limit)[-1]
        return names[segment.draft.name], int(segment.draft.facts()["place"][segment.kept()[-1]])

    def _stop(self, last: tuple[int, int]) -> None:
        """Forgets what was read after a document."""
        chunk, place = last
        self._chunks[chunk:] = [first_of(self._chunks[chunk], place + 1)]
        self._stopped = True

    def selection(
        self, segments: Sequence[Segment], of_all: Sequence[Draft], divided: list[tuple[int, int]]
    ) -> Selection:
        """What is kept of the source, from the unique documents of its drafts. `of_all` are those of all sources."""
        result = Selection(chunks=self._chunks, stopped_early=self._stopped)
        result.read = sum(chunk.read for chunk in self._chunks)
        for reason in REASONS:
            result.removed[reason] = sum(chunk.removed[reason] for chunk in self._chunks)
        result.removed["duplicate"] = sum(segment.draft.documents - segment.documents for segment in segments)
        kept = self._by_split(segments)
        if self._params.validation == "tail":
            assert self._params.validation_fraction is not None
            tail = _Tail(self._params, self._filters, of_all, divided, self._folder, result.removed)
            kept = tail.split(kept["train"], self._params.validation_fraction)
        for split in SPLITS:
            result.splits[split] = take(kept[split], self._limits[split])
            result.over_limit += count(kept[split]) - count(result.splits[split])
        return result


class _Tail:
    """The split by characters. Both parts of the document at the cut are filtered again: a part may be too short, or
    equal to another document of `drafts`, or to an earlier part, whose fingerprints are in `divided`.
    """

    def __init__(
        self,
        params: DatasetParams,
        filters: Filters,
        drafts: Sequence[Draft],
        divided: list[tuple[int, int]],
        folder: Path,
        removed: dict[str, int],
    ) -> None:
        self._filters, self._drafts, self._folder, self._removed = filters, drafts, folder, removed
        self._divided = divided
        self._deduplicate, self._prefix = params.deduplicate, b"%d\n" % params.seed

    def split(self, segments: Sequence[Segment], fraction: float) -> dict[str, list[Segment]]:
        """ "val" begins at character int(total · (1 - fraction))."""
        cut = int(sum(segment.characters for segment in segments) * (1 - fraction))
        splits: dict[str, list[Segment]] = {split: [] for split in SPLITS}
        for segment in segments:
            if segment.characters <= cut:
                splits["train"].append(segment)
            elif cut <= 0:
                splits["val"].append(segment)
            else:
                numbers = segment.kept()
                ends = np.cumsum(segment.draft.facts()["characters"][numbers], dtype=np.int64)
                before = int(np.searchsorted(ends, cut, "right"))
                left = cut - (int(ends[before - 1]) if before else 0)  # characters of the document at the cut
                if before:
                    splits["train"].append(select(segment, numbers[:before]))
                after = before
                if left:
                    self._divide(segment.draft, numbers[before], left, splits)
                    after += 1
                if after < len(numbers):
                    splits["val"].append(select(segment, numbers[after:]))
            cut -= segment.characters
        return splits

    def _divide(self, draft: Draft, number: np.intp, left: int, splits: dict[str, list[Segment]]) -> None:
        text = next(draft.texts(np.array([number]))).decode()
        for split, part in (("train", text[:left]), ("val", text[left:])):
            data = part.encode()
            high, low = fingerprint(self._prefix, data)
            reason = self._filters.reason(part)
            if not reason and self._deduplicate and ((high, low) in self._divided or occurs(self._drafts, high, low)):
                reason = "duplicate"
            if reason:
                self._removed[reason] += 1
                continue
            self._divided.append((high, low))
            facts = np.array([(len(data), len(part), 0)], FACTS)
            name = str(self._folder / f"cut-{split}")
            splits[split].append(whole(write_draft(name, [data], facts, *np.array([[high], [low]], "<u8"))))


def explain_empty(split: str, params: DatasetParams, selection: Selection) -> str:
    """The error message for a split without documents."""
    if selection.read == 0:
        return f"no documents in the source ({params.describe()}); check its contents"
    removed = ", ".join(f"{count} {reason}" for reason, count in selection.removed.items() if count)
    counts = f"{selection.read} read" + (f"; removed by filters: {removed}" if removed else "")
    if selection.read == 1 and not removed and params.validation == "random":
        advice = params.how_to_split()
    elif params.validation == "source":
        advice = "change dataset.min_chars, dataset.max_chars or the names of the splits"
    elif split == "val":
        advice = f"raise dataset.validation_fraction = {params.validation_fraction}"
        advice += ", or set dataset.validation = tail" if params.validation == "random" else ", or add text"
    else:
        advice = "add text, change dataset.min_chars or dataset.max_chars, or lower dataset.validation_fraction"
    return f"no documents in the {'validation' if split == 'val' else 'training'} split ({counts}); {advice}"
