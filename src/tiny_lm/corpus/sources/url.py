"""Files behind URLs, such as s3:// and https://, read by all workers in parts. Their versions are recorded."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tiny_lm.corpus.remote import RemoteFile, list_url
from tiny_lm.corpus.sources.base import Source
from tiny_lm.corpus.sources.local import MAX_LISTED, SUFFIXES, Files, FilesParams, InputFile, divide, format_of
from tiny_lm.executor import Executor
from tiny_lm.io.params import check


@dataclass(frozen=True, kw_only=True)
class UrlParams(FilesParams):
    source: Literal["url"] = "url"  # stories | huggingface | local | url | mixture
    # of files, folders (with / at the end) or patterns (with *), such as [s3://bucket/texts/*.jsonl.gz]
    urls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.urls), "urls", list(self.urls), "a list, such as [s3://bucket/texts/*.jsonl]")
        for url in self.urls:
            check("://" in url.strip("/"), "urls", url, "a URL, such as s3://bucket/texts/*.jsonl")

    def open(self, progress: bool, executor: Executor) -> Source:
        files: list[InputFile] = []
        others: list[str] = []
        for file in dict.fromkeys(file for url in self.urls for file in list_url(url)):  # each once
            kind = format_of(file, self.format, suffix_in_glob=False)
            if kind is None:
                others.append(file.url)
            else:
                files.append(InputFile(file.url, file, kind))
        if not files:
            raise ValueError(
                f"dataset.urls = {list(self.urls)}: no reader for the suffix of {others[0]}; "
                f"set dataset.format to {', '.join(dict.fromkeys(SUFFIXES.values()))}"
            )
        listed: Any = [
            {"url": file.name, "format": file.format, "bytes": file.path.size, "version": file.path.version}
            for file in files
            if isinstance(file.path, RemoteFile)
        ]
        if len(files) > MAX_LISTED:
            listed = {"number": len(files), "sha256": hashlib.sha256(json.dumps(listed).encode()).hexdigest()}
        parts = (CheckedFiles(part) for part in divide(files, self.field, self.separator))
        return Source(parts, None, None, {"source": "url", "files": listed}, tuple(others))

    def remote(self) -> tuple[str, ...]:
        return self.urls

    def describe(self) -> str:
        return f"{super().describe()}, dataset.urls = {list(self.urls)}"


@dataclass(frozen=True)
class CheckedFiles:
    """A part of remote files, which fails if one of them is not the one that was listed, before or after it is read."""

    files: Files

    def read(self) -> Iterator[str]:
        for file in self.files.one_by_one():
            ((_, path, _),) = file.files
            assert isinstance(path, RemoteFile)
            path.check()
            try:
                yield from file.read()
            except ValueError:
                path.check()  # parts of two versions are seldom readable together
                raise
            path.check()
