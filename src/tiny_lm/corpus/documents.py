"""The documents of a split on disk: one Parquet file with one `text` column, and a small JSON of facts beside it.

Written as a stream and read as a stream: memory holds two row groups, whatever the size of the corpus, one that fills
and one that a thread compresses. The writer counts and hashes what passes through it, so that the facts cost no second
pass. The content hash is over the texts, not over the bytes of the Parquet file, which another version of pyarrow may
lay out differently.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tiny_lm.files import sha256

ROW_GROUP_BYTES = 8 * 2**20  # of UTF-8, before compression
ROW_GROUP_DOCUMENTS = 2**14
BATCH_DOCUMENTS = 2**10  # that are read at a time
MAX_DOCUMENT_BYTES = 2**30  # a Parquet page holds less than 2 GiB

SCHEMA = pa.schema([("text", pa.large_string())])


class DocumentWriter:
    """Writes documents to `path`, which appears, complete, when the `with` block ends without an error.

    After it, `documents`, `characters`, `bytes` (of UTF-8) and `sha256` describe what was written.
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
        """Append one document. ValueError where it cannot be stored: a lone surrogate, or 1 GiB and more."""
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{self.path}: document {self.documents} has a lone surrogate (U+{ord(text[error.start]):04X}) at "
                f"character {error.start}, which no UTF-8 file can hold: repair the source"
            ) from error
        if len(data) >= MAX_DOCUMENT_BYTES:
            raise ValueError(
                f"{self.path}: document {self.documents} has {len(data)} bytes, the limit is {MAX_DOCUMENT_BYTES}: "
                "cut the source into documents (dataset.separator) or set dataset.max_chars"
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
        # not pa.array, which imports pandas where it is installed, to know its columns: 2 s
        ends = np.cumsum([0, *map(len, group)], dtype=np.int64)
        texts = pa.LargeStringArray.from_buffers(len(group), pa.py_buffer(ends), pa.py_buffer(b"".join(group)))
        self._parquet.write_table(pa.table([texts], schema=SCHEMA))

    def _wait(self) -> None:
        """Until the last row group is written; raises what went wrong with it."""
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
            with suppress(Exception):  # after a failure there is no use in a footer, but pyarrow wants to write one
                self._parquet.close()
            self._parquet.is_open = False
            with suppress(OSError):
                self._file.close()
            self._temporary.unlink(missing_ok=True)


def count_documents(path: Path) -> int:
    """How many documents `path` says that it has; reads its last bytes alone."""
    with path.open("rb") as file, _refusing(path):
        return _open(file).metadata.num_rows


def read_documents(path: Path) -> Iterator[str]:
    """The documents of `path`, in order, as a stream. ValueError, naming the file, if it is not such a file."""
    with path.open("rb") as file, _refusing(path):
        parquet, read = _open(file), 0
        for batch in parquet.iter_batches(BATCH_DOCUMENTS):  # not whole row groups, whose size a file can lie about
            for text in batch.column(0).to_pylist():
                if text is None:
                    raise ValueError("a document is null")
                read += 1
                yield text
        if read != parquet.metadata.num_rows:
            raise ValueError(f"{read} documents, where its footer says {parquet.metadata.num_rows}")


def _open(file: BinaryIO) -> pq.ParquetFile:
    parquet = pq.ParquetFile(file, pre_buffer=False)  # else what was read stays in memory to the end
    if parquet.schema_arrow.names != SCHEMA.names or parquet.schema_arrow.field("text").type != pa.large_string():
        raise ValueError(f"expected one column `text`, found {', '.join(parquet.schema_arrow.names)[:200]}")
    return parquet


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """What pyarrow says of a file that is none of ours, as a ValueError with the file's name, in one line."""
    try:
        yield
    except (pa.ArrowException, ValueError, OSError, MemoryError) as error:
        reason = " ".join(str(error).split())[:300] or "it unfolds to more than memory holds"
        raise ValueError(
            f"{path}: not a file of documents ({reason}); `tiny-lm restore corpus` or `dvc pull` brings it back, "
            "`dvc repro corpus` makes it"
        ) from error
