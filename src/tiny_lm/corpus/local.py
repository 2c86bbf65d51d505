"""Documents from local files: text, JSONL, CSV and Parquet, each read as a stream.

Text is taken exactly as it is: UTF-8, every character kept, line endings included. A file that is not what it
should be is a ValueError that names the file and the place in it: nothing is guessed, replaced or skipped.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = {".txt": "text", ".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
NOTES = {".md", ".dvc"}  # what lies beside data: read only where the pattern names the suffix
BLOCK_BYTES = 2**20
BATCH_ROWS = 256


def list_files(path: Path, format: str, glob: str) -> list[tuple[str, Path, str]]:
    """(name relative to `path`, file, format) of the files to read, sorted by name.

    In a folder, hidden files are passed over; with format `auto` so are files of other suffixes, unless `glob`
    names the suffix (`**/*.md`), which reads them as text. ValueError where there is nothing to read.
    """
    if path.is_file():
        kind = SUFFIXES.get(path.suffix.lower()) if format == "auto" else format
        if kind is None:
            raise ValueError(
                f"dataset.path = {str(path)!r}: no reader goes with the suffix {path.suffix!r}; "
                "set dataset.format to text, jsonl, csv or parquet"
            )
        return [(path.name, path, kind)]
    if not path.is_dir():
        raise ValueError(f"dataset.path = {str(path)!r}: no such file or folder")
    files = []
    for file in set(path.glob(glob)):  # some Pythons find a file twice where the pattern has `**` twice
        name = file.relative_to(path)
        suffix = file.suffix.lower()
        named = bool(suffix) and glob.lower().endswith(suffix)
        if any(part.startswith(".") for part in name.parts) or (suffix in NOTES and not named) or not file.is_file():
            continue
        kind = SUFFIXES.get(suffix, "text" if named else None) if format == "auto" else format
        if kind is None:
            continue
        if any((path / folder).is_symlink() for folder in name.parents[:-1]):
            raise ValueError(
                f"dataset.glob = {glob!r}: reaches {name} through a link to a folder, which DVC does not watch; "
                "set dataset.path to that folder, or put it here"
            )
        files.append((name.as_posix(), file, kind))
    if not files:
        wanted = "no .txt, .jsonl, .csv or .parquet file" if format == "auto" else "no file"
        raise ValueError(
            f"dataset.path = {str(path)!r}: {wanted} matches dataset.glob = {glob!r}; put files there "
            "or name another path"
        )
    return sorted(files)


def read_file(file: Path, format: str, field: str | None, separator: str | None) -> Iterator[str]:
    """The documents of one file, in order, as a stream."""
    if format == "text":
        return read_text(file, separator)
    if field is None:
        raise ValueError(f"dataset.field = None: must be the name of the field with the text, to read {file}")
    return {"jsonl": read_jsonl, "csv": read_csv, "parquet": read_parquet}[format](file, field)


def read_text(file: Path, separator: str | None) -> Iterator[str]:
    """The file as one document, or its pieces between `separator`, which is not kept; empty pieces are passed over."""
    if separator is None:
        text = "".join(_decoded_blocks(file))
        if text:
            yield text
        return
    # The separator may lie across two blocks, so the last characters of a block wait for the next one. What is
    # known to hold no separator waits as parts, to be joined once: a large document costs linear time.
    parts: list[str] = []
    rest = ""
    for block in _decoded_blocks(file):
        first, *others = (rest + block).split(separator)
        if others:
            if document := "".join([*parts, first]):
                yield document
            yield from filter(None, others[:-1])
            parts = []
        last = others[-1] if others else first
        cut = max(len(last) - len(separator) + 1, 0)
        parts.append(last[:cut])
        rest = last[cut:]
    if document := "".join([*parts, rest]):
        yield document


def _decoded_blocks(file: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = 0  # offset in the file of what the decoder is given next, less what it still holds
    with file.open("rb") as stream:
        while True:
            block = stream.read(BLOCK_BYTES)
            held = len(decoder.getstate()[0])
            try:
                yield decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise _not_utf8(file, start - held + error.start) from error
            if not block:
                return
            start += len(block)


def _not_utf8(file: Path, offset: int) -> ValueError:
    with file.open("rb") as stream:
        if stream.read(2) in (b"\x1f\x8b", b"\x28\xb5", b"BZ", b"PK", b"\xfd7"):
            return ValueError(f"{file}: is compressed; unpack it first")
    return ValueError(f"{file}: not UTF-8 at byte {offset}; convert the file, for example with iconv")


def _decoded_lines(file: Path) -> Iterator[str]:
    """Lines as bytes split them, at newline characters only, with their endings; a byte order mark is dropped."""
    offset = 0
    with file.open("rb") as stream:
        for line in stream:
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(file, offset + error.start) from error
            yield text.removeprefix("\ufeff") if offset == 0 else text
            offset += len(line)


def read_jsonl(file: Path, field: str) -> Iterator[str]:
    """`field` of the object on each line; empty lines are passed over."""
    for number, line in enumerate(_decoded_lines(file), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number}: expected an object with fields, found {type(row).__name__}")
        yield _text_of(row, field, f"{file}, line {number}")


def _text_of(row: dict[str, Any], field: str, place: str) -> str:
    if field not in row:
        raise _no_field(place, field, row)
    text = row[field]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ValueError(f"{place}: field {field!r} must be text, found {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place}: field {field!r} has a lone surrogate (U+{ord(text[error.start]):04X}) at character "
            f"{error.start}, half of a character that UTF-8 cannot hold: repair the file"
        ) from error
    return text


def _no_field(place: str, field: str, fields: Iterable[str]) -> ValueError:
    return ValueError(f"{place}: no field {field!r} (dataset.field); there is {', '.join(map(repr, fields)) or 'none'}")


def read_csv(file: Path, field: str) -> Iterator[str]:
    """Column `field` of a comma-separated file whose first row names the columns; quoted text may hold newlines."""
    csv.field_size_limit(2**31 - 1)  # the default is 128 KiB; this is the largest that every platform takes
    rows = csv.reader(_decoded_lines(file), strict=True)
    try:
        header = next(rows, [])
        if header.count(field) != 1:
            if field in header:
                raise ValueError(f"{file}: {header.count(field)} columns are called {field!r}")
            raise _no_field(str(file), field, header)
        column = header.index(field)
        for row in rows:
            if len(row) != len(header) and row:
                raise ValueError(
                    f"{file}, line {rows.line_num}: {len(row)} fields in this row, {len(header)} in the first; "
                    "quote text that has commas or newlines in it"
                )
            if row:
                yield row[column]
    except csv.Error as error:
        raise ValueError(f"{file}, line {rows.line_num}: not CSV ({error})") from error


def read_parquet(file: Path, field: str) -> Iterator[str]:
    """Column `field` of a Parquet file; null counts as empty."""
    row = 0
    try:
        with pq.ParquetFile(file, buffer_size=BLOCK_BYTES, pre_buffer=False) as parquet:  # no whole column in memory
            schema = parquet.schema_arrow
            if field not in schema.names:
                raise _no_field(str(file), field, schema.names)
            if schema.names.count(field) != 1:
                raise ValueError(f"{file}: {schema.names.count(field)} columns are called {field!r}")
            kind = schema.field(field).type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                raise ValueError(f"{file}: column {field!r} must be text, found {kind}")
            for batch in parquet.iter_batches(BATCH_ROWS, columns=[field]):
                try:
                    texts = batch.column(0).to_pylist()
                except UnicodeDecodeError:
                    texts = (value.as_py() for value in batch.column(0))  # up to the row that is none
                for text in texts:
                    yield text or ""
                    row += 1
            if row != parquet.metadata.num_rows:
                raise ValueError(f"{file}: {row} rows, where its footer says {parquet.metadata.num_rows}")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}, row {row}: not UTF-8 ({error.reason})") from error
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not readable as Parquet ({' '.join(str(error).split())})") from error
