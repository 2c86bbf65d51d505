"""The corpus on disk: for each split Parquet files of documents with one column, `text`, and one metadata.json.

    metadata.json           source, counts, checksums
    train/00000.parquet …   documents, in order
    val/…                   the same

Documents are written and read as streams. Memory holds two row groups, whatever the size of the corpus: one that is
being filled and one that a thread compresses. The writer counts and hashes documents as it writes them, so metadata
takes no second pass. `sha256` covers the texts, because another version of pyarrow may write another Parquet file;
`file_sha256` covers the file, so that a reader can check it before parsing it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tiny_lm.io.files import AtomicFile, read_json
from tiny_lm.io.metadata import build, check_sha256
from tiny_lm.io.params import check

ROW_GROUP_BYTES = 8 * 2**20  # of UTF-8, before compression
ROW_GROUP_DOCUMENTS = 2**14
BATCH_DOCUMENTS = 2**10  # read at a time
MAX_DOCUMENT_BYTES = 2**30  # a Parquet page holds less than 2 GiB

REMEDY = "`tiny-lm restore corpus` or `dvc pull` restores it, `dvc repro corpus` rebuilds it"
MAX_METADATA = 64 << 20  # bytes; it lists every file of a local source

SCHEMA = pa.schema([("text", pa.large_string())])


class TextCounts:
    """Counts and hashes documents."""

    def __init__(self) -> None:
        self.documents = self.characters = self.bytes = 0
        self._hash = hashlib.sha256()

    def add(self, data: bytes, characters: int) -> None:
        """Adds a document; `data` is its UTF-8."""
        self.documents += 1
        self.characters += characters
        self.bytes += len(data)
        self._hash.update(len(data).to_bytes(8, "little"))  # so that the hash covers where documents end
        self._hash.update(data)

    def sha256(self) -> str:
        return self._hash.hexdigest()


def encode(text: str) -> bytes:
    """The UTF-8 of a document. Raises ValueError if it cannot be stored: a lone surrogate, or 1 GiB or more."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"a document has a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}, which UTF-8 "
            f"cannot represent; repair the source. It begins {text[:40]!a}"
        ) from error
    if len(data) >= MAX_DOCUMENT_BYTES:
        raise ValueError(
            f"a document has {len(data)} bytes, must be under {MAX_DOCUMENT_BYTES}; split it with dataset.separator, "
            f"or set dataset.max_chars. It begins {text[:40]!a}"
        )
    return data


class DocumentWriter:
    """Writes documents to `path`, which appears, complete, when the `with` block ends without an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts = TextCounts()
        self._group: list[bytes] = []
        self._group_bytes = 0
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    def metadata(self, file: str) -> FileMetadata:
        """The entry of `file` in metadata.json; complete after the `with` block."""
        counts = self.counts
        return FileMetadata(
            file=file,
            documents=counts.documents,
            characters=counts.characters,
            bytes=counts.bytes,
            sha256=counts.sha256(),
            file_sha256=self._file_sha256,
        )

    def __enter__(self) -> DocumentWriter:
        self._file = AtomicFile(self.path)
        self._parquet = pq.ParquetWriter(
            self._file, SCHEMA, compression="zstd", use_dictionary=False, write_statistics=False
        )
        return self

    def write(self, text: str) -> None:
        """Appends a document. Raises ValueError if it cannot be stored."""
        self.append(encode(text), len(text))

    def append(self, data: bytes, characters: int) -> None:
        """Appends a document as UTF-8, which may have been encoded long before."""
        if self._group and self._group_bytes + len(data) > ROW_GROUP_BYTES:
            self._flush()
        self.counts.add(data, characters)
        self._group.append(data)
        self._group_bytes += len(data)
        if len(self._group) >= ROW_GROUP_DOCUMENTS:
            self._flush()

    def _flush(self) -> None:
        self._wait()
        if self._group:
            self._written = self._thread.submit(self._write_group, self._group)
        self._group, self._group_bytes = [], 0

    def _write_group(self, group: list[bytes]) -> None:
        # pa.array would import pandas, if it is installed, which takes 2 s
        ends = np.cumsum([0, *map(len, group)], dtype=np.int64)
        texts = pa.LargeStringArray.from_buffers(len(group), pa.py_buffer(ends), pa.py_buffer(b"".join(group)))
        self._parquet.write_table(pa.table([texts], schema=SCHEMA))

    def _wait(self) -> None:
        """Waits until the last row group is written, and raises its error, if any."""
        if self._written:
            self._written.result()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                self._wait()
                self._parquet.close()
                self._file_sha256 = self._file.commit()
        finally:
            self._thread.shutdown()
            with suppress(Exception):  # pyarrow writes a footer even after a failure
                self._parquet.close()
            self._parquet.is_open = False
            self._file.discard()


def count_documents(path: Path) -> int:
    """The number of documents according to the footer; reads nothing else."""
    with path.open("rb") as file, _one_line_errors(path):
        return _open(file).metadata.num_rows


def count_row_groups(path: Path) -> int:
    with path.open("rb") as file, _one_line_errors(path):
        return _open(file).num_row_groups


def read_documents(path: Path, groups: tuple[int, int] | None = None) -> Iterator[str]:
    """Yields the documents of `path`, in order, or those of the row groups from the first of `groups` to the second.
    Raises ValueError if the file is damaged or contains anything else.
    """
    with path.open("rb") as file, _one_line_errors(path):
        parquet, read = _open(file), 0
        row_groups = range(*(groups or (0, parquet.num_row_groups)))
        for batch in parquet.iter_batches(BATCH_DOCUMENTS, row_groups):  # a damaged file may claim any size of them
            for text in batch.column(0).to_pylist():
                if text is None:
                    raise ValueError("a document is null")
                read += 1
                yield text
        claimed = parquet.metadata.num_rows
        if groups is not None:
            claimed = sum(parquet.metadata.row_group(group).num_rows for group in row_groups)
        if read != claimed:
            raise ValueError(f"{read} documents, but {claimed} according to the footer")


def file_name(split: str, index: int) -> str:
    return f"{split}/{index:05d}.parquet"


def read_split(folder: Path) -> Iterator[str]:
    """Yields the documents of a split, from the files in its folder. Raises ValueError if one of them is missing."""
    for path in list_split(folder):
        yield from read_documents(path)


def list_split(folder: Path) -> list[Path]:
    """The files of a split, in order. Raises ValueError if there are none, or one is missing between others."""
    paths = sorted(folder.glob("*.parquet"))
    for index, path in enumerate(paths or [Path()]):
        expected = folder.parent / file_name(folder.name, index)
        if path != expected:
            raise ValueError(f"{expected}: no such file; {REMEDY}")
    return paths


@dataclass(frozen=True, kw_only=True)
class FileMetadata:
    file: str  # relative to the folder of metadata.json
    documents: int
    characters: int
    bytes: int  # of UTF-8
    sha256: str  # of the texts
    file_sha256: str

    def __post_init__(self) -> None:
        check_sha256("sha256", self.sha256)
        check_sha256("file_sha256", self.file_sha256)


@dataclass(frozen=True, kw_only=True)
class SplitMetadata:
    documents: int
    characters: int
    bytes: int
    sha256: str  # of those of the files
    files: tuple[FileMetadata, ...]

    @classmethod
    def of(cls, files: Sequence[FileMetadata]) -> SplitMetadata:
        """The metadata of a split with these files."""
        digest = hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()
        documents, characters, size = (
            sum(getattr(file, key) for file in files) for key in ("documents", "characters", "bytes")
        )
        return cls(documents=documents, characters=characters, bytes=size, sha256=digest, files=tuple(files))

    def check(self, name: str) -> None:
        """Raises ValueError if files have other names, or counts are not those of the files."""
        for index, file in enumerate(self.files):
            expected = file_name(name, index)
            check(file.file == expected, f"splits.{name}.files[{index}].file", file.file[:80], expected)
        for key, value in vars(SplitMetadata.of(self.files)).items():
            if key != "files":
                check(
                    getattr(self, key) == value, f"splits.{name}.{key}", getattr(self, key), f"{value}, as in its files"
                )


@dataclass(frozen=True, kw_only=True)
class Splits:
    train: SplitMetadata
    val: SplitMetadata


def read_metadata(path: Path) -> dict[str, Any]:
    """The whole metadata, with `splits` validated. Raises ValueError, in one line, if it is invalid."""
    values = read_json(path, MAX_METADATA, REMEDY)
    try:
        splits = build(Splits, values.get("splits"), "splits")
        for name in ("train", "val"):
            getattr(splits, name).check(name)
        if not isinstance(values.get("source"), dict):
            raise ValueError("source must be an object")
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {REMEDY}") from None
    return values


def format_runs(runs: Iterable[tuple[int, int]]) -> str:
    """The sources of documents in order, for metadata.json: [(0, 3), (1, 2)] -> "0:3 1:2"."""
    merged: list[tuple[int, int]] = []
    for source, documents in runs:
        if merged and merged[-1][0] == source:
            documents += merged.pop()[1]
        merged.append((source, documents))
    return " ".join(f"{source}:{documents}" for source, documents in merged)


def validation_sources(path: Path, documents: int) -> NDArray[np.int64] | None:
    """The number of the source of each of the validation documents, or None if the corpus has one source only. Raises
    ValueError if the metadata in `path` is invalid, or has another number of documents.
    """
    text = read_metadata(path)["source"].get("validation_order")
    if text is None:
        return None
    valid = isinstance(text, str) and re.fullmatch(r"\d{1,4}:\d{1,12}( \d{1,4}:\d{1,12})*", text)
    runs = np.array([run.split(":") for run in text.split(" ")] if valid else [], np.int64).reshape(-1, 2)
    if runs[:, 1].sum() != documents:  # before memory is used for them
        raise ValueError(
            f"{path}: source.validation_order must have the source of {documents} validation documents; {REMEDY}"
        )
    return np.repeat(runs[:, 0], runs[:, 1])


def _open(file: BinaryIO) -> pq.ParquetFile:
    parquet = pq.ParquetFile(file, pre_buffer=False)  # otherwise everything that was read stays in memory
    if parquet.schema_arrow.names != SCHEMA.names or parquet.schema_arrow.field("text").type != pa.large_string():
        raise ValueError(f"expected one column `text`, found {', '.join(parquet.schema_arrow.names)[:200]}")
    return parquet


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Turns pyarrow's errors into a ValueError in one line that names the file."""
    try:
        yield
    except (pa.ArrowException, ValueError, OSError, MemoryError) as error:
        reason = " ".join(str(error).split())[:300] or "it decompresses to more than fits in memory"
        raise ValueError(f"{path}: not a file of documents ({reason}); {REMEDY}") from error
