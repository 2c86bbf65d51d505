"""Local files: selects the files of a folder to read, and the format of each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

from tiny_lm.corpus.readers import Format, is_divisible, read_file, row_group_bytes
from tiny_lm.corpus.remote import RemoteFile
from tiny_lm.corpus.sources.base import PART_BYTES, DatasetParams, Source, shorten
from tiny_lm.corpus.streams import COMPRESSIONS, Span
from tiny_lm.executor import Executor
from tiny_lm.io.files import sha256
from tiny_lm.io.params import check

SUFFIXES: dict[str, Format] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
NOTES = {".md", ".dvc"}  # about data: read only if the glob ends with the suffix
GIT_OR_DVC = {".git", ".gitignore", ".gitattributes", ".gitkeep", ".dvc", ".dvcignore"}
FILES_IN_PART = 1000
MAX_LISTED = 10_000  # for more files, metadata.json has only the number and a hash of names and contents


@dataclass(frozen=True, kw_only=True)
class FilesParams(DatasetParams):
    """The params of sources that consist of files."""

    # random: by a hash of seed and text; tail: the last part, in order
    validation: Literal["random", "tail"] = "random"
    validation_fraction: float | None = 0.05
    format: Literal["auto", "text", "jsonl", "json", "csv", "tsv", "parquet"] = "auto"  # auto: by suffix
    field: str | None = "text"  # the field that contains the text, unless format: text
    # splits text files into documents, such as "\n\n" or <|endoftext|>; null: one per file
    separator: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format in ("auto", "text"):
            check(self.field != "", "field", self.field, "a name or null")
            check(self.separator != "", "separator", self.separator, "null (one document per file), or a text")
        else:
            check(bool(self.field), "field", self.field, f"the name of a field with format: {self.format}")
            check(self.separator is None, "separator", self.separator, f"null with format: {self.format}")
        if self.format == "text":
            check(self.field is None, "field", self.field, "null with format: text, which has no fields")

    def how_to_split(self) -> str:
        if self.separator is not None:
            return (
                f"dataset.separator = {self.separator!r} does not split the text (lines may end with "
                "'\\r\\n'); set one that does, or dataset.validation = tail"
            )
        if self.format in ("auto", "text"):
            return "split the text with dataset.separator, or set dataset.validation = tail"
        return super().how_to_split()


@dataclass(frozen=True, kw_only=True)
class LocalParams(FilesParams):
    source: Literal["local"] = "local"  # stories | huggingface | local | url | mixture
    path: str = "data/raw"  # a file or a folder, which DVC watches
    glob: str = "**/*"  # which files of a folder, such as *.txt; **/*.md reads those as text

    reads_path = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(PurePath(self.path).parts) and is_utf8(self.path), "path", self.path, "a file or a folder")
        parts = self.glob.replace("\\", "/").split("/")
        inside = not PurePath(self.glob).is_absolute() and ".." not in parts and "" not in parts
        inside = inside and bool(PurePath(self.glob).parts)  # "." is the folder itself, which pathlib cannot glob
        inside = inside and is_utf8(self.glob)
        double = any("**" in part and part != "**" for part in parts) or parts[-1] == "**"
        check(inside and not double, "glob", self.glob, "a pattern inside the folder, such as *.txt or **/*.jsonl")

    def open(self, progress: bool, executor: Executor) -> Source:
        files = list_files(Path(self.path), self.format, self.glob)
        not_read = tuple(list_others(Path(self.path), files))
        sums = executor.ordered(_checksums, _groups(files))
        entries: list[dict[str, str | int]] = [
            {"name": file.name, "format": file.format, "bytes": size, "sha256": digest}
            for file, (size, digest) in zip(files, chain.from_iterable(sums), strict=True)
        ]
        listed: Any = entries
        if len(files) > MAX_LISTED:
            listed = {"number": len(files), "sha256": hashlib.sha256(json.dumps(entries).encode()).hexdigest()}
        provenance = {"source": "local", "files": listed}
        return Source(divide(files, self.field, self.separator), None, None, provenance, not_read)

    def files(self) -> list[Path]:
        files = list_files(Path(self.path), self.format, self.glob)
        return [file.path for file in files if isinstance(file.path, Path)]

    def describe(self) -> str:
        return f"{super().describe()}, dataset.path = {self.path}"


class InputFile(NamedTuple):
    name: str  # relative to dataset.path, or a URL
    path: Path | RemoteFile
    format: Format


@dataclass(frozen=True)
class Files:
    """Consecutive files, or a span of one: see `read_file`."""

    files: tuple[InputFile, ...]
    field: str | None
    separator: str | None
    span: Span | None = None

    def read(self) -> Iterator[str]:
        for file in self.files:
            yield from read_file(file.path, file.format, self.field, self.separator, self.span)

    def one_by_one(self) -> Iterator[Files]:
        for file in self.files:
            yield replace(self, files=(file,))


def divide(files: Sequence[InputFile], field: str | None, separator: str | None) -> Iterator[Files]:
    """Yields all documents of the files as parts of about PART_BYTES."""
    for group in _groups(files):
        spans = list(_spans(group[0], separator)) if len(group) == 1 else []
        if not spans:
            yield Files(group, field, separator)
        for span in spans:
            yield Files(group, field, separator, span)


def _groups(files: Sequence[InputFile]) -> Iterator[tuple[InputFile, ...]]:
    """Yields consecutive files of together about PART_BYTES. A larger file is a group of its own."""
    group: list[InputFile] = []
    size = 0
    for file in files:
        added = file.path.stat().st_size
        if group and (size + added > PART_BYTES or len(group) == FILES_IN_PART):
            yield tuple(group)
            group, size = [], 0
        group.append(file)
        size += added
    if group:
        yield tuple(group)


def _spans(file: InputFile, separator: str | None) -> Iterator[Span]:
    """Yields the spans of a large file, if it is divisible."""
    size = file.path.stat().st_size
    if size <= PART_BYTES or not is_divisible(file.path, file.format, separator):
        return
    if file.format != "parquet":
        for start in range(0, size, PART_BYTES):
            yield start, min(start + PART_BYTES, size)
        return
    first, total = 0, 0
    groups = row_group_bytes(file.path)
    for number, group in enumerate(groups):
        total += group
        if total >= PART_BYTES or number == len(groups) - 1:
            yield first, number + 1
            first, total = number + 1, 0


def _checksums(files: Sequence[InputFile]) -> list[tuple[int, str]]:
    """Size and SHA-256 of local files."""
    return [(file.path.stat().st_size, sha256(file.path)) for file in files if isinstance(file.path, Path)]


def list_files(path: Path, format: str, glob: str) -> list[InputFile]:
    """The files to read, sorted by name. Raises ValueError if there are none.

    With format `auto`, a file with an unknown suffix is read only if `glob` ends with the suffix (`**/*.md`), as text.
    Hidden files are never read.
    """
    if path.is_file():
        kind = format_of(path, format, suffix_in_glob=False)
        if kind is None:
            raise ValueError(
                f"dataset.path = {str(path)!r}: no reader for the suffix {''.join(_suffixes(path))!r}; "
                f"set dataset.format to {', '.join(dict.fromkeys(SUFFIXES.values()))}"
            )
        return [InputFile(path.name, path, kind)]
    if not path.is_dir():
        raise ValueError(f"dataset.path = {str(path)!r}: no such file or folder")
    files = []
    for file in set(path.glob(glob)):  # some Pythons return a file twice if the pattern contains `**` twice
        name = file.relative_to(path)
        if not is_utf8(str(name)):
            raise ValueError(
                f"{path}: the file name {str(name)!a} is not UTF-8, so DVC cannot watch the file; rename it"
            )
        suffix = "".join(_suffixes(file))
        suffix_in_glob = bool(suffix) and glob.lower().endswith(suffix)
        note = _suffixes(file)[0] in NOTES and not suffix_in_glob
        if note or any(part.startswith(".") for part in name.parts) or not file.is_file():
            continue
        kind = format_of(file, format, suffix_in_glob)
        if kind is None:
            continue
        if any((path / folder).is_symlink() for folder in name.parents[:-1]):
            raise ValueError(
                f"dataset.glob = {glob!r}: matches {name} through a link to a folder, which DVC does not watch; "
                "set dataset.path to the folder itself, or replace the link with a copy"
            )
        files.append(InputFile(name.as_posix(), file, kind))
    if not files:
        *suffixes, last = SUFFIXES
        wanted = f"no {', '.join(suffixes)} or {last} file" if format == "auto" else "no file"
        others = list_others(path, [])
        found = f" (found {shorten(others)})" if others else ""
        raise ValueError(
            f"dataset.path = {str(path)!r}: {wanted} matches dataset.glob = {glob!r}{found}; put files there, "
            "or set another path"
        )
    return sorted(files)


def list_others(path: Path, files: list[InputFile]) -> list[str]:
    """The other files in a folder and its subfolders, and links to folders, which are not followed.

    Leaves out files of Git and DVC, and README.md in the folder itself.
    """

    def fail(error: OSError) -> None:
        raise error

    if path.is_file():
        return []
    read = {"README.md", *(file.name for file in files)}
    others = []
    for folder, subfolders, names in os.walk(path, onerror=fail):
        subfolders[:] = [name for name in subfolders if name not in GIT_OR_DVC]
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        for name in names + links:
            relative = Path(folder, name).relative_to(path).as_posix()
            if name not in GIT_OR_DVC and not name.endswith(".dvc") and relative not in read:
                others.append(relative)
    return sorted(others)


def _suffixes(file: Path | RemoteFile) -> tuple[str, str]:
    """The suffix of the format and that of the compression: `.jsonl`, `.gz`."""
    last = file.suffix.lower()
    return (PurePath(file.name[: -len(last)]).suffix.lower(), last) if last in COMPRESSIONS else (last, "")


def format_of(file: Path | RemoteFile, format: str, suffix_in_glob: bool) -> Format | None:
    if format != "auto":
        return format  # type: ignore[return-value]
    suffix, compression = _suffixes(file)
    if suffix == ".parquet" and compression:
        return None
    return SUFFIXES.get(suffix, "text" if suffix_in_glob else None)


def is_utf8(name: str) -> bool:
    """Whether a file name is UTF-8; Python represents other bytes as surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in name)
