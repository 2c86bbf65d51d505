"""The corpus on disk: for each split a Parquet file of documents with one column, `text`, and one metadata.json.

Documents are written and read as streams. Memory holds two row groups, whatever the size of the corpus: one that is
being filled and one that a thread compresses. The writer counts and hashes documents as they pass, so metadata takes no
second pass. The content hash covers the texts and not the Parquet file, which another version of pyarrow may lay out
differently.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tiny_lm.io.files import read_json, sha256
from tiny_lm.io.metadata import build, check_sha256

ROW_GROUP_BYTES = 8 * 2**20  # of UTF-8, before compression
ROW_GROUP_DOCUMENTS = 2**14
BATCH_DOCUMENTS = 2**10  # read at a time
MAX_DOCUMENT_BYTES = 2**30  # a Parquet page holds less than 2 GiB

REMEDY = "`tiny-lm restore corpus` or `dvc pull` restores it, `dvc repro corpus` rebuilds it"
MAX_METADATA = 64 << 20  # bytes; it lists every file of a local source

SCHEMA = pa.schema([("text", pa.large_string())])


class DocumentWriter:
    """Writes documents to `path`, which appears, complete, when the `with` block ends without an error.

    Afterwards, `documents`, `characters`, `bytes` (of UTF-8) and `sha256` describe what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.documents = self.characters = self.bytes = 0
        self._temporary = path.with_name(path.name + ".tmp")
        self._hash = hashlib.sha256()
        self._group: list[bytes] = []
        self._group_bytes = 0
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    @property
    def sha256(self) -> str:
        """Hash of the texts in order, each as the length of its UTF-8 (8 bytes, little-endian) and its UTF-8."""
        return self._hash.hexdigest()

    def facts(self) -> dict[str, int | str]:
        """For metadata.json, after the `with` block. `file_sha256` lets a reader check the file before it parses it."""
        counts = {"documents": self.documents, "characters": self.characters, "bytes": self.bytes}
        return counts | {"sha256": self.sha256, "file_sha256": sha256(self.path)}

    def __enter__(self) -> DocumentWriter:
        self._file: BinaryIO = self._temporary.open("wb")
        self._parquet = pq.ParquetWriter(
            self._file, SCHEMA, compression="zstd", use_dictionary=False, write_statistics=False
        )
        return self

    def write(self, text: str) -> None:
        """Append one document. ValueError if it cannot be stored: a lone surrogate, or 1 GiB or more."""
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{self.path}: document {self.documents} has a lone surrogate (U+{ord(text[error.start]):04X}) at "
                f"character {error.start}, which UTF-8 cannot represent: repair the source"
            ) from error
        if len(data) >= MAX_DOCUMENT_BYTES:
            raise ValueError(
                f"{self.path}: document {self.documents} has {len(data)} bytes, the limit is {MAX_DOCUMENT_BYTES}: "
                "divide the source into documents (dataset.separator) or set dataset.max_chars"
            )
        if self._group and self._group_bytes + len(data) > ROW_GROUP_BYTES:
            self._flush()
        self.documents += 1
        self.characters += len(text)
        self.bytes += len(data)
        self._hash.update(len(data).to_bytes(8, "little"))
        self._hash.update(data)
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
        """Wait until the last row group is written, and raise its error, if any."""
        if self._written:
            self._written.result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
                self._wait()
                self._parquet.close()
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._temporary.replace(self.path)
        finally:
            self._thread.shutdown()
            with suppress(Exception):  # pyarrow writes a footer even after a failure
                self._parquet.close()
            self._parquet.is_open = False
            with suppress(OSError):
                self._file.close()
            self._temporary.unlink(missing_ok=True)


def count_documents(path: Path) -> int:
    """The number of documents according to the footer, without reading anything else."""
    with path.open("rb") as file, _refusing(path):
        return _open(file).metadata.num_rows


def read_documents(path: Path) -> Iterator[str]:
    """The documents of `path`, in order, as a stream. ValueError if the file is damaged or contains something else."""
    with path.open("rb") as file, _refusing(path):
        parquet, read = _open(file), 0
        for batch in parquet.iter_batches(BATCH_DOCUMENTS):  # a damaged file may claim row groups of any size
            for text in batch.column(0).to_pylist():
                if text is None:
                    raise ValueError("a document is null")
                read += 1
                yield text
        if read != parquet.metadata.num_rows:
            raise ValueError(f"{read} documents, but its footer says {parquet.metadata.num_rows}")


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    documents: int
    characters: int
    bytes: int  # of UTF-8
    sha256: str  # of the texts
    file_sha256: str

    def __post_init__(self) -> None:
        check_sha256("sha256", self.sha256)
        check_sha256("file_sha256", self.file_sha256)


@dataclass(frozen=True, kw_only=True)
class Splits:
    train: SplitFacts
    val: SplitFacts


def read_metadata(path: Path) -> dict[str, Any]:
    """All of the metadata, of which `splits` is checked. ValueError, in one line, if it cannot be right."""
    values = read_json(path, MAX_METADATA, REMEDY)
    try:
        build(Splits, values.get("splits"), "splits")
        if not isinstance(values.get("source"), dict):
            raise ValueError("source must be an object")
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {REMEDY}") from None
    return values


def _open(file: BinaryIO) -> pq.ParquetFile:
    parquet = pq.ParquetFile(file, pre_buffer=False)  # otherwise all that was read stays in memory
    if parquet.schema_arrow.names != SCHEMA.names or parquet.schema_arrow.field("text").type != pa.large_string():
        raise ValueError(f"expected one column `text`, found {', '.join(parquet.schema_arrow.names)[:200]}")
    return parquet


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turns pyarrow's errors into a ValueError of one line with the file's name."""
    try:
        yield
    except (pa.ArrowException, ValueError, OSError, MemoryError) as error:
        reason = " ".join(str(error).split())[:300] or "it decompresses to more than fits in memory"
        raise ValueError(
            f"{path}: not a file of documents ({reason}); `tiny-lm restore corpus` or `dvc pull` restores it, "
            "`dvc repro corpus` rebuilds it"
        ) from error
