"""Reads the documents of one file, as a stream: plain text, JSONL, JSON, CSV, TSV or Parquet.

All but Parquet may be compressed (see streams.py). The readers raise ValueError with the line number; `read_file` adds
the file name.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from tiny_lm.corpus.remote import RemoteError, RemoteFile
from tiny_lm.corpus.streams import COMPRESSIONS, Span, open_text, whole_documents

Format = Literal["text", "jsonl", "json", "csv", "tsv", "parquet"]
BLOCK_CHARS = 2**18  # read at a time
BATCH_ROWS = 256
_WHITESPACE = re.compile(r"[ \t\r\n]*")
_MISSING = object()
_LONGEST_TOKEN = 16  # characters of a JSON literal or escape sequence, at most


def read_file(
    file: Path | RemoteFile, format: Format, field: str | None, separator: str | None, span: Span | None = None
) -> Iterator[str]:
    """Yields the documents of a file, in order. `separator` is for text, `field` for all other formats.

    `span` selects those of a range, if the file is divisible: in a Parquet file of row groups, in others of bytes, from
    the first document that begins in it.
    """
    try:
        if format != "text" and field is None:
            raise ValueError(
                "dataset.field = None: must be the name of the field with the text; set it, or exclude this file "
                "(dataset.glob, dataset.urls)"
            )
        if format == "parquet":
            assert field is not None
            yield from read_parquet(file, field, span)
            return
        if span is not None:
            span = whole_documents(file, span, separator if format == "text" and separator else "\n")
        with open_text(file, span) as text:
            yield from read_text(text, separator) if format == "text" else READERS[format](text, field or "")
    except RemoteError:
        raise
    except ValueError as error:
        if span is not None:  # from the beginning, for the number of the line
            for _ in read_file(file, format, field, separator):
                pass
        raise ValueError(f"{file}: {error}") from error


def is_divisible(file: Path | RemoteFile, format: Format, separator: str | None) -> bool:
    """Whether `read_file` can read a span of a file without what comes before."""
    if format == "parquet":
        return True
    plain = file.suffix.lower() not in COMPRESSIONS
    return plain and (format == "jsonl" or (format == "text" and separator is not None))


def read_text(text: TextIO, separator: str | None) -> Iterator[str]:
    """Yields the whole text as one document, or the non-empty parts between separators."""
    if separator is None:
        if document := text.read():
            yield document
        return
    rest = ""
    while block := text.read(BLOCK_CHARS):
        searched = max(len(rest) - len(separator) + 1, 0)
        rest += block
        if rest.find(separator, searched) >= 0:  # each part is searched once, however large the document
            *documents, rest = rest.split(separator)
            yield from filter(None, documents)
    if rest:
        yield rest


def read_jsonl(text: TextIO, field: str) -> Iterator[str]:
    """Yields `field` of the object on each line; ignores empty lines."""
    decode = json.JSONDecoder().raw_decode  # `json.loads` takes twice as long for a short line
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            line = line.strip(" \t\r\n")
            row, end = decode(line)
            if end < len(line):
                raise ValueError(f"Extra data at character {end}")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: not JSON ({error})") from error
        yield _text_of(row, field, number)


def read_json(text: TextIO, field: str) -> Iterator[str]:
    """Yields `field` of each object, in an array or one after the other."""
    for row, line in _json_values(text):
        yield _text_of(row, field, line)


def _json_values(text: TextIO) -> Iterator[tuple[Any, int]]:
    """Yields (value, number of its first line) of each value, in an array or one after the other."""
    stream = _JsonStream(text)
    try:
        if not stream.skip("["):
            while stream.next_char():
                yield stream.value()
            return
        if stream.next_char() != "]":
            yield stream.value()
            while stream.skip(","):
                yield stream.value()
        if not stream.skip("]"):
            raise ValueError("expected , or ] after an object")
        if stream.next_char():
            raise ValueError("unexpected text after the array")
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        line = stream.line + stream.buffer.count("\n", stream.position, getattr(error, "pos", stream.position))
        raise ValueError(f"line {line}: not JSON ({getattr(error, 'msg', error)})") from error


class _JsonStream:
    """Decodes JSON values one by one. The text left to decode starts at `buffer[position]`, in line `line`."""

    def __init__(self, text: TextIO) -> None:
        self.buffer, self.position, self.line = "", 0, 1
        self._text = text
        self._decode = json.JSONDecoder().raw_decode

    def next_char(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            space = _WHITESPACE.match(self.buffer, self.position)
            assert space is not None
            self._advance(space.end())
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self._read_more():
                return ""

    def skip(self, char: str) -> bool:
        """Skips the next character if it is `char`; whether it was."""
        found = self.next_char() == char
        self.position += found
        return found

    def value(self) -> tuple[Any, int]:
        """The next value, and the number of its first line."""
        self.next_char()
        line = self.line
        while True:
            try:
                value, end = self._decode(self.buffer, self.position)
                self._advance(end)
                return value, line
            except json.JSONDecodeError as error:
                at_end = error.pos > len(self.buffer) - _LONGEST_TOKEN or error.msg.startswith("Unterminated string")
                if not (at_end and self._read_more()):
                    raise

    def _advance(self, end: int) -> None:
        self.line += self.buffer.count("\n", self.position, end)
        self.position = end

    def _read_more(self) -> bool:
        """Reads at least as many characters as are left, so that a long value takes linear time. False at the end."""
        rest = self.buffer[self.position :]
        more = self._text.read(max(BLOCK_CHARS, len(rest)))
        if more:  # at the end, keep the buffer: errors refer to positions in it
            self.buffer, self.position = rest + more, 0
        return bool(more)


def _text_of(row: Any, field: str, line: int) -> str:
    """The text in `field` of a JSON object; "" for null."""
    if not isinstance(row, dict):
        raise ValueError(f"line {line}: expected an object, found {type(row).__name__}")
    text = _lookup(row, field)
    if text is _MISSING:
        raise ValueError(f"line {line}: {_no_field(field, row)}")
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ValueError(f"line {line}: field {field!r} must be text, found {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"line {line}: field {field!r} has a lone surrogate (U+{ord(text[error.start]):04X}) at character "
            f"{error.start}, which UTF-8 cannot represent; repair the file"
        ) from error
    return text


def _lookup(row: dict[str, Any], field: str) -> Any:
    """The value of `field`: `a.b` is the field with that name, or else the field `b` of `a`."""
    if field in row:
        return row[field]
    for name, inner in row.items():
        if isinstance(inner, dict) and field.startswith(f"{name}."):
            value = _lookup(inner, field.removeprefix(f"{name}."))
            if value is not _MISSING:
                return value
    return _MISSING


def _no_field(field: str, fields: Iterable[str]) -> str:
    found = ", ".join(map(repr, fields))[:500] or "none"
    return f"no field {field!r}; found: {found}; set dataset.field, or exclude this file (dataset.glob, dataset.urls)"


def _check_column(field: str, columns: Sequence[str]) -> None:
    """Raises ValueError unless exactly one of `columns` is named `field`."""
    if field not in columns:
        raise ValueError(_no_field(field, columns))
    if columns.count(field) > 1:
        raise ValueError(f"{columns.count(field)} columns are named {field!r}; rename all but one")


def read_csv(text: TextIO, field: str, delimiter: str = ",") -> Iterator[str]:
    """Yields column `field` of a table with a header; quoted text may contain newlines."""
    csv.field_size_limit(2**31 - 1)  # the default is 128 KiB; this is the largest that every platform accepts
    rows = csv.reader(text, strict=True, delimiter=delimiter)
    try:
        header = next(rows, [])
        _check_column(field, header)
        column = header.index(field)
        for row in filter(None, rows):  # empty lines are no rows
            if len(row) != len(header):
                raise ValueError(
                    f"line {rows.line_num}: {len(row)} fields, but {len(header)} in the header; "
                    f"quote text that contains {delimiter!r} or newlines"
                )
            yield row[column]
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: not CSV ({error})") from error


READERS: dict[Format, Callable[[TextIO, str], Iterator[str]]] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": partial(read_csv, delimiter="\t"),
}


def read_parquet(file: Path | RemoteFile, field: str, groups: Span | None = None) -> Iterator[str]:
    """Yields column `field` of a Parquet file, or for `a.b` the field `b` of a struct `a`; "" for null.

    `groups` are the first row group to read and the end.
    """
    row = 0
    try:
        with pq.ParquetFile(
            _source(file), buffer_size=2**20, pre_buffer=False
        ) as parquet:  # never holds a whole column
            columns = _flatten(pa.Table.from_batches([], parquet.schema_arrow), field).schema
            _check_column(field, columns.names)
            kind = columns.field(field).type
            text = kind.value_type if pa.types.is_dictionary(kind) else kind
            if text not in (pa.string(), pa.large_string(), pa.string_view()):
                raise ValueError(f"column {field!r} must be text, found {kind}")
            row_groups = range(*(groups or (0, parquet.num_row_groups)))
            # also returns columns named `field.…`
            for batch in parquet.iter_batches(BATCH_ROWS, row_groups, columns=[field]):
                column = _flatten(pa.Table.from_batches([batch]), field).column(field)
                try:
                    texts = column.to_pylist()
                except UnicodeDecodeError:
                    texts = (value.as_py() for value in column)  # one by one, up to the row that is not UTF-8
                for text in texts:
                    yield text or ""
                    row += 1
            claimed = parquet.metadata.num_rows
            if groups:
                claimed = sum(parquet.metadata.row_group(group).num_rows for group in row_groups)
            if row != claimed:
                raise ValueError(f"{row} rows, but {claimed} according to the footer")
    except UnicodeDecodeError as error:
        raise ValueError(f"row {row}: not UTF-8 ({error.reason})") from error
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not readable as Parquet ({' '.join(str(error).split())})") from error


def row_group_bytes(file: Path | RemoteFile) -> list[int]:
    """The uncompressed size of each row group; none if the file is damaged, which reading it will report."""
    try:
        with pq.ParquetFile(_source(file)) as parquet:
            return [parquet.metadata.row_group(group).total_byte_size for group in range(parquet.num_row_groups)]
    except (pa.ArrowException, OSError, ValueError):
        return []


def _source(file: Path | RemoteFile) -> Path | BinaryIO:
    return file if isinstance(file, Path) else file.open()


def _flatten(table: pa.Table, field: str) -> pa.Table:
    """Replaces structs by their fields, `a` by `a.b` and `a.c`, until there is a column `field`."""
    while field not in table.column_names and any(map(pa.types.is_struct, table.schema.types)):
        table = table.flatten()
    return table
