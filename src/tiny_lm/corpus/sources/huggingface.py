"""Datasets from the Hugging Face Hub, downloaded or streamed. The commit of the revision is recorded.

One process reads them, and others do the rest.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from tiny_lm.corpus.sources.base import DatasetParams, Source, texts_in_parts
from tiny_lm.executor import Executor
from tiny_lm.io.params import check

T = TypeVar("T")

DOWNLOAD_ATTEMPTS = 3  # each with the retries of `datasets` and its HTTP client
FIRST_PAUSE_SECONDS = 2.0  # doubled after each attempt
BATCH_DOCUMENTS = 100


@dataclass(frozen=True, kw_only=True)
class HuggingFaceParams(DatasetParams):
    source: Literal["huggingface"] = "huggingface"  # stories | huggingface | local | url | mixture
    # random: by a hash of seed and text; tail: the last part, in order; source: val_split
    validation: Literal["random", "tail", "source"] = "source"
    validation_fraction: float | None = None  # null with validation: source
    name: str = "roneneldan/TinyStories"  # owner/name on the Hub
    config: str | None = None  # null: the only one, or the default
    revision: str | None = None  # commit, tag or branch; null: main. metadata.json records the commit
    field: str = "text"  # the column that contains the text
    train_split: str = "train"
    val_split: str | None = "validation"  # null unless validation: source
    streaming: bool = False  # false: download first; true: read over the network, cache nothing

    def __post_init__(self) -> None:
        super().__post_init__()
        check(re.fullmatch(r"[\w.-]+/[\w.-]+", self.name) is not None, "name", self.name, "owner/name, as on the Hub")
        for key in ("config", "revision", "field", "train_split", "val_split"):
            check(getattr(self, key) != "", key, "", "a name" if key in ("field", "train_split") else "a name or null")
        if self.validation == "source":
            other = self.val_split not in (None, self.train_split)
            check(other, "val_split", self.val_split, "a split other than train_split with validation: source")
        else:
            check(self.val_split is None, "val_split", self.val_split, f"null with validation: {self.validation}")

    def open(self, progress: bool, executor: Executor) -> Source:
        if Path(self.name).exists():  # `datasets` would read it instead of the Hub
            raise ValueError(
                f"dataset.name = {self.name!r}: also a path on this machine; rename that, or read it with source: local"
            )
        import datasets

        if not progress:
            datasets.disable_progress_bars()

        def resolve() -> datasets.DatasetBuilder:
            builder = datasets.load_dataset_builder(self.name, self.config, revision=self.revision)
            # If the Hub cannot be reached, `datasets` falls back to whatever revision is in its cache.
            if type(builder).__name__ == "Cache" and self.revision not in (None, builder.hash):
                raise ConnectionError(f"not reachable, and the cache has another revision, {builder.hash}")
            return builder

        builder = _retry(resolve, self.name)
        if not self.streaming:
            _retry(builder.download_and_prepare, self.name)

        def load(split: str) -> Any:
            read = builder.as_streaming_dataset if self.streaming else builder.as_dataset
            return _retry(lambda: read(split), self.name)

        train = load(self.train_split)
        val = None if self.val_split is None else load(self.val_split)
        provenance = {
            "source": "huggingface",
            "name": self.name,
            "config": builder.config.name,
            "revision": builder.hash,
            "field": self.field,
            "train_split": self.train_split,
            "val_split": self.val_split,
        }
        return Source(
            train=texts_in_parts(_texts(train, lambda: load(self.train_split), self)),
            val=None if val is None else texts_in_parts(_texts(val, lambda: load(self.val_split or ""), self)),
            total=None if self.streaming else len(train),
            provenance=provenance,
        )


def _texts(dataset: Any, reload: Callable[[], Any], params: HuggingFaceParams) -> Iterator[str]:
    """Yields the text of each row, "" for null. If the stream fails, reopens it and continues after the last row."""
    read = failures = 0
    while True:
        try:
            for batch in (dataset.skip(read) if read else dataset).iter(BATCH_DOCUMENTS):
                if params.field not in batch:
                    found = ", ".join(map(repr, batch))
                    raise _WrongField(
                        f"dataset.field = {params.field!r}: no such field in {params.name}; choose one of {found}"
                    )
                for text in batch[params.field]:
                    if not isinstance(text, str | None):
                        kind = type(text).__name__
                        raise _WrongField(f"dataset.field = {params.field!r}: must be text, but row {read} has {kind}")
                    read += 1
                    yield text or ""
                failures = 0
            return
        except _WrongField:
            raise
        except Exception as error:
            failures += 1
            _pause_or_give_up(error, failures, params.name)
            dataset = reload()


class _WrongField(ValueError):
    """A retry would not help."""


def _retry(action: Callable[[], T], name: str) -> T:
    for failures in range(1, DOWNLOAD_ATTEMPTS + 1):
        try:
            return action()
        except Exception as error:
            _pause_or_give_up(error, failures, name)
    raise AssertionError


def _pause_or_give_up(error: Exception, failures: int, name: str) -> None:
    """Sleeps before the next attempt, or raises a ValueError of one line."""
    from datasets import config
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError

    # A missing dataset, config or split (ValueError) would fail again. Network errors have other types.
    permanent = isinstance(error, DatasetNotFoundError | DataFilesNotFoundError) or type(error) is ValueError
    if permanent or config.HF_HUB_OFFLINE or failures >= DOWNLOAD_ATTEMPTS:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        tried = "" if failures == 1 else f" after {failures} attempts"
        raise ValueError(f"dataset.name = {name!r}: could not be loaded from the Hub{tried}: {reason[:500]}") from error
    time.sleep(FIRST_PAUSE_SECONDS * 2 ** (failures - 1))
