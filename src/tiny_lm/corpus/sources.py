"""Where documents come from: the built-in story generator, a data set of the Hugging Face Hub, or local files.

`dataset.source` chooses; each source has a params class here with the keys that mean something for it, and
`open_source` turns params into streams of documents and the facts to record about them. Which documents stay,
and which go to validation, is decided afterwards, in the same way for all sources.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar

from tqdm import tqdm

from tiny_lm.config import check
from tiny_lm.corpus.local import list_files, read_file
from tiny_lm.corpus.stories import VERSION, story
from tiny_lm.files import sha256

MAX_LISTED = 10_000  # files; of more, metadata.json has the number and a hash over their names and contents

T = TypeVar("T")

DOWNLOAD_ATTEMPTS = 3  # each of them with the retries of `datasets` and its HTTP client within
FIRST_PAUSE_SECONDS = 2.0  # doubled from one attempt to the next
BATCH_DOCUMENTS = 100


@dataclass(frozen=True, kw_only=True)
class DatasetParams:
    """What all sources have in common. params.yaml must contain `path`, whatever the source: dvc.yaml refers to it."""

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

    def __post_init__(self) -> None:
        if self.source != "local":
            check(self.path == "data/raw", "path", self.path, "data/raw (only source: local reads another path)")
        check(self.seed >= 0, "seed", self.seed, "0 or more")
        fraction = self.validation_fraction
        if self.validation == "source":
            check(fraction is None, "validation_fraction", fraction, "null with validation: source")
        else:
            between = fraction is not None and 0 < fraction < 1
            check(between, "validation_fraction", fraction, "between 0 and 1, both excluded")
        check(self.min_chars >= 1, "min_chars", self.min_chars, "1 or more")
        longest = self.max_chars
        check(longest is None or longest >= self.min_chars, "max_chars", longest, "null or min_chars or more")
        for key in ("max_train_documents", "max_val_documents"):
            limit = getattr(self, key)
            check(limit is None or limit >= 1, key, limit, "null or 1 or more")


@dataclass(frozen=True, kw_only=True)
class StoriesParams(DatasetParams):
    source: Literal["stories"] = "stories"  # stories | huggingface | local
    seed: int = 0  # for the stories, and for validation: random
    # random: by a hash of seed and text; tail: the last part, in order
    validation: Literal["random", "tail"] = "random"
    documents: int = 30_000  # about 16 MB, 523 characters each

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.documents >= 2, "documents", self.documents, "2 or more (training and validation)")


@dataclass(frozen=True, kw_only=True)
class HuggingFaceParams(DatasetParams):
    source: Literal["huggingface"] = "huggingface"  # stories | huggingface | local
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


@dataclass(frozen=True, kw_only=True)
class LocalParams(DatasetParams):
    source: Literal["local"] = "local"  # stories | huggingface | local
    path: str = "data/raw"  # a file or a folder, which DVC watches
    # random: by a hash of seed and text; tail: the last part, in order
    validation: Literal["random", "tail"] = "random"
    validation_fraction: float | None = 0.05
    format: Literal["auto", "text", "jsonl", "csv", "parquet"] = "auto"  # auto: by suffix
    glob: str = "**/*"  # which files of a folder, such as *.txt; **/*.md reads those as text
    field: str | None = "text"  # the field that contains the text, unless format: text
    # splits text files into documents, such as "\n\n" or <|endoftext|>; null: one per file
    separator: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(PurePath(self.path).parts), "path", self.path, "a file or a folder")
        parts = self.glob.replace("\\", "/").split("/")
        inside = not PurePath(self.glob).is_absolute() and ".." not in parts and "" not in parts
        inside = inside and bool(PurePath(self.glob).parts)  # "." is the folder itself, which pathlib cannot glob
        inside = inside and not any("\ud800" <= sign <= "\udfff" for sign in self.glob)  # halves that no file name has
        double = any("**" in part and part != "**" for part in parts) or parts[-1] == "**"
        check(inside and not double, "glob", self.glob, "a pattern inside the folder, such as *.txt or **/*.jsonl")
        if self.format in ("jsonl", "csv", "parquet"):
            check(bool(self.field), "field", self.field, f"the field with the text, with format: {self.format}")
            check(self.separator is None, "separator", self.separator, f"null with format: {self.format}: it cuts text")
        else:
            check(self.field != "", "field", self.field, "a name or null")
            check(self.separator != "", "separator", self.separator, "null (a file is one document) or a text")
        if self.format == "text":
            check(self.field is None, "field", self.field, "null with format: text, which has no fields")


SOURCES: dict[str, type[DatasetParams]] = {
    "stories": StoriesParams,
    "huggingface": HuggingFaceParams,
    "local": LocalParams,
}


@dataclass(frozen=True)
class Source:
    """Documents as streams, to be read once, training first; `val` only where the source has a split of its own.

    `total` is the number of training documents where it is known; `facts` says where they come from, for metadata.json.
    """

    train: Iterator[str]
    val: Iterator[str] | None
    total: int | None
    facts: dict[str, Any]


def open_source(params: DatasetParams, progress: bool = False) -> Source:
    """The source that `params` describe. ValueError where it is not there or cannot be reached."""
    if isinstance(params, StoriesParams):
        source = _open_stories(params)
    elif isinstance(params, LocalParams):
        source = _open_local(params)
    else:
        assert isinstance(params, HuggingFaceParams)
        source = _open_huggingface(params, progress)

    def bar(documents: Iterator[str], name: str, total: int | None) -> Iterator[str]:
        yield from tqdm(documents, name, total, unit=" documents", disable=not progress)

    train = bar(source.train, "training documents" if source.val else "documents", source.total)
    return replace(source, train=train, val=bar(source.val, "validation documents", None) if source.val else None)


def _open_stories(params: StoriesParams) -> Source:
    facts = {"source": "stories", "generator_version": VERSION, "seed": params.seed, "documents": params.documents}
    stories = (story(params.seed, index) for index in range(params.documents))
    return Source(stories, None, params.documents, facts)


def _open_local(params: LocalParams) -> Source:
    files = list_files(Path(params.path), params.format, params.glob)
    facts: list[dict[str, str | int]] = []
    for name, file, kind in files:
        facts.append({"name": name, "format": kind, "bytes": file.stat().st_size, "sha256": sha256(file)})
    listed: Any = facts
    if len(files) > MAX_LISTED:
        listed = {"number": len(files), "sha256": hashlib.sha256(json.dumps(facts).encode()).hexdigest()}
    documents = (read_file(file, kind, params.field, params.separator) for _, file, kind in files)
    return Source(chain.from_iterable(documents), None, None, {"source": "local", "files": listed})


def _open_huggingface(params: HuggingFaceParams, progress: bool) -> Source:
    """The commit is resolved once, recorded, and both splits are read from it."""
    if Path(params.name).exists():  # `datasets` would read it instead of asking the Hub
        raise ValueError(f"dataset.name = {params.name!r}: is here, not on the Hub; for files use source: local")
    import datasets

    if not progress:
        datasets.disable_progress_bars()

    def resolve() -> datasets.DatasetBuilder:
        builder = datasets.load_dataset_builder(params.name, params.config, revision=params.revision)
        # With the Hub out of reach `datasets` falls back to whatever revision is in its cache.
        if type(builder).__name__ == "Cache" and params.revision not in (None, builder.hash):
            raise ConnectionError(f"not reachable, and the copy in the cache is of revision {builder.hash}")
        return builder

    builder = _attempt(resolve, params.name)
    if not params.streaming:
        _attempt(builder.download_and_prepare, params.name)

    def load(split: str) -> Any:
        if params.streaming:
            return builder.as_streaming_dataset(split)
        return builder.as_dataset(split)

    train = _attempt(lambda: load(params.train_split), params.name)
    val = None if params.val_split is None else _attempt(lambda: load(params.val_split or ""), params.name)
    facts = {
        "source": "huggingface",
        "name": params.name,
        "config": builder.config.name,
        "revision": builder.hash,
        "field": params.field,
        "train_split": params.train_split,
        "val_split": params.val_split,
    }
    return Source(
        train=_rows(train, lambda: load(params.train_split), params),
        val=None if val is None else _rows(val, lambda: load(params.val_split or ""), params),
        total=None if params.streaming else len(train),
        facts=facts,
    )


def _rows(dataset: Any, reload: Callable[[], Any], params: HuggingFaceParams) -> Iterator[str]:
    """The text of each row; null counts as empty. A stream that breaks off is opened again, behind what was read."""
    read = failures = 0
    while True:
        try:
            for batch in (dataset.skip(read) if read else dataset).iter(BATCH_DOCUMENTS):
                if params.field not in batch:
                    there = ", ".join(map(repr, batch))
                    raise _Refused(
                        f"dataset.field = {params.field!r}: no such field in {params.name}; there is {there}"
                    )
                for text in batch[params.field]:
                    if not isinstance(text, str | None):
                        kind = type(text).__name__
                        raise _Refused(f"dataset.field = {params.field!r}: must hold text, row {read} has {kind}")
                    read += 1
                    yield text or ""
                failures = 0
            return
        except _Refused:
            raise
        except Exception as error:
            failures += 1
            _pause_or_give_up(error, failures, params.name)
            dataset = _attempt(reload, params.name)


class _Refused(ValueError):
    """The data are there and are not what the params say: no use in trying again."""


def _attempt(action: Callable[[], T], name: str) -> T:
    for failures in range(1, DOWNLOAD_ATTEMPTS + 1):
        try:
            return action()
        except Exception as error:
            _pause_or_give_up(error, failures, name)
    raise AssertionError


def _pause_or_give_up(error: Exception, failures: int, name: str) -> None:
    """Sleep before the next attempt, or raise the one line that says what went wrong."""
    from datasets import config
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError

    # What does not exist will not exist the next time, and a ValueError is about a config or a split; connections
    # fail with other types. The rest may be the network's.
    lasting = isinstance(error, DatasetNotFoundError | DataFilesNotFoundError) or type(error) is ValueError
    if lasting or config.HF_HUB_OFFLINE or failures >= DOWNLOAD_ATTEMPTS:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        tried = "" if failures == 1 else f" after {failures} attempts"
        raise ValueError(f"dataset.name = {name!r}: could not be loaded from the Hub{tried}: {reason[:500]}") from error
    time.sleep(FIRST_PAUSE_SECONDS * 2 ** (failures - 1))
