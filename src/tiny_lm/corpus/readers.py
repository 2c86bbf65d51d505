"""Documents from one file: plain text, JSONL, JSON, CSV, TSV or Parquet, each read as a stream.

All but Parquet may be compressed (see streams.py). A file that cannot be read is a ValueError that names the file and
the line in it.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tiny_lm.corpus.streams import BLOCK_BYTES, COMPRESSIONS, decoded_blocks, decoded_lines

Format = Literal["text", "jsonl", "json", "csv", "tsv", "parquet"]
BATCH_ROWS = 256
_WHITESPACE = re.compile(r"[ \t\r\n]*")
_MISSING = object()
_LONGEST_TOKEN = 16  # characters of a JSON literal or escape sequence, at most


def read_file(file: Path, format: Format, field: str | None, separator: str | None) -> Iterator[str]:
    """The documents of one file, in order, as a stream. `separator` is for text, `field` for everything else."""
    if format == "text":
        return read_text(file, separator)
    if field is None:
        raise ValueError(
            f"dataset.field = None: must be the name of the field that contains the text, to read {file}; "
            "dataset.glob can leave this file out"
        )
    readers: dict[Format, Callable[[Path, str], Iterator[str]]] = {
        "jsonl": read_jsonl,
        "json": read_json,
        "csv": read_csv,
        "tsv": read_tsv,
        "parquet": read_parquet,
    }
    return readers[format](file, field)


def read_text(file: Path, separator: str | None) -> Iterator[str]:
    """The file as one document, or its non-empty parts between separators."""
    if separator is None:
        text = "".join(decoded_blocks(file))
        if text:
            yield text
        return
    # A separator may lie across two blocks, so the last characters of a block wait in `rest` for the next block.
    # What cannot contain one waits in `parts` and is joined once: a large document takes linear time.
    parts: list[str] = []
    rest = ""
    for block in decoded_blocks(file):
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


def read_jsonl(file: Path, field: str) -> Iterator[str]:
    """`field` of the object on each line; empty lines are ignored."""
    for number, line in enumerate(decoded_lines(file), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}, line {number}: not JSON ({error})") from error
        yield _text_of(row, field, f"{file}, line {number}")


def read_json(file: Path, field: str) -> Iterator[str]:
    """`field` of each object of an array, or of objects one after the other. Never holds more than one object."""
    text = _JsonStream(decoded_blocks(file))

    def document() -> str:
        row, line = text.value()
        return _text_of(row, field, f"{file}, line {line}")

    try:
        if text.next_char() != "[":
            while text.next_char():
                yield document()
            return
        text.advance(1)
        if text.next_char() != "]":
            yield document()
            while text.next_char() == ",":
                text.advance(1)
                yield document()
            if text.next_char() != "]":
                raise json.JSONDecodeError("expected , or ] after an object", text.buffer, text.position)
        text.advance(1)
        if text.next_char():
            raise json.JSONDecodeError("expected nothing after the array", text.buffer, text.position)
    except json.JSONDecodeError as error:
        line = text.line + text.buffer.count("\n", text.position, error.pos)
        raise ValueError(f"{file}, line {line}: not JSON ({error.msg})") from error
    except RecursionError as error:
        raise ValueError(f"{file}, line {text.line}: not JSON ({error})") from error


class _JsonStream:
    """Decodes one JSON value after the other from blocks of text: `buffer` from `position` on is still to be read."""

    def __init__(self, blocks: Iterator[str]) -> None:
        self.buffer, self.position, self.line = "", 0, 1
        self._blocks = blocks
        self._decode = json.JSONDecoder().raw_decode

    def advance(self, count: int) -> None:
        end = self.position + count
        self.line += self.buffer.count("\n", self.position, end)
        self.position = end

    def next_char(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            space = _WHITESPACE.match(self.buffer, self.position)
            assert space is not None
            self.advance(space.end() - self.position)
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self._read_more():
                return ""

    def value(self) -> tuple[Any, int]:
        """The next value, and the line where it begins."""
        self.next_char()
        line = self.line
        while True:
            try:
                value, end = self._decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                at_end = error.pos > len(self.buffer) - _LONGEST_TOKEN or error.msg.startswith("Unterminated string")
                if not (at_end and self._read_more()):
                    raise
            except ValueError as error:  # a number with thousands of digits
                raise json.JSONDecodeError(str(error), self.buffer, self.position) from error
            else:
                if end < len(self.buffer) or not self._read_more():  # at the end, a number may continue
                    self.advance(end - self.position)
                    return value, line

    def _read_more(self) -> bool:
        """Adds at least as much as is left, so that a long value takes linear time; False at the end of the file."""
        rest = self.buffer[self.position :]
        blocks, size = [rest], 0
        for block in self._blocks:
            blocks.append(block)
            size += len(block)
            if size and size >= len(rest):
                break
        if size == 0:
            return False
        self.buffer, self.position = "".join(blocks), 0
        return True


def _text_of(row: Any, field: str, place: str) -> str:
    """The text of a JSON object; null counts as empty."""
    if not isinstance(row, dict):
        raise ValueError(f"{place}: expected an object with fields, found {type(row).__name__}")
    text = _lookup(row, field)
    if text is _MISSING:
        raise _no_field(place, field, row)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ValueError(f"{place}: field {field!r} must be text, found {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place}: field {field!r} has a lone surrogate (U+{ord(text[error.start]):04X}) at character "
            f"{error.start}, half of a character that UTF-8 cannot represent: repair the file"
        ) from error
    return text


def _lookup(row: dict[str, Any], field: str) -> Any:
    """`field` of a row: `a.b` is the field with that name, or else the field `b` of `a`."""
    if field in row:
        return row[field]
    for name, inner in row.items():
        if isinstance(inner, dict) and field.startswith(f"{name}."):
            value = _lookup(inner, field.removeprefix(f"{name}."))
            if value is not _MISSING:
                return value
    return _MISSING


def _no_field(place: str, field: str, fields: Iterable[str]) -> ValueError:
    found = ", ".join(map(repr, fields))[:500] or "none"
    return ValueError(
        f"{place}: no field {field!r} (dataset.field); there is {found}; dataset.glob can leave this file out"
    )


def read_csv(file: Path, field: str, delimiter: str = ",") -> Iterator[str]:
    """Column `field` of a file whose first row names the columns; quoted text may contain newlines."""
    csv.field_size_limit(2**31 - 1)  # the default is 128 KiB; this is the largest that every platform takes
    rows = csv.reader(decoded_lines(file), strict=True, delimiter=delimiter)
    try:
        header = next(rows, [])
        if header.count(field) != 1:
            if field in header:
                raise ValueError(f"{file}: {header.count(field)} columns are called {field!r}")
            raise _no_field(str(file), field, header)
        column = header.index(field)
        for row in rows:
            if len(row) != len(header) and row:
                separators = "commas" if delimiter == "," else "tabs"
                raise ValueError(
                    f"{file}, line {rows.line_num}: {len(row)} fields in this row, {len(header)} in the first; "
                    f"quote text that contains {separators} or newlines"
                )
            if row:
                yield row[column]
    except csv.Error as error:
        raise ValueError(
            f"{file}, line {rows.line_num}: not {'CSV' if delimiter == ',' else 'TSV'} ({error})"
        ) from error


def read_tsv(file: Path, field: str) -> Iterator[str]:
    """Like `read_csv`, with tabs."""
    return read_csv(file, field, "\t")


def read_parquet(file: Path, field: str) -> Iterator[str]:
    """Column `field` of a Parquet file, or `a.b`, the field `b` of a struct `a`; null counts as empty."""
    if file.suffix.lower() in COMPRESSIONS:
        raise ValueError(f"{file}: a compressed Parquet file cannot be read as a stream; decompress it")
    row = 0
    try:
        with pq.ParquetFile(file, buffer_size=BLOCK_BYTES, pre_buffer=False) as parquet:  # no whole column in memory
            path = _column_path(file, field, parquet.schema_arrow)
            for batch in parquet.iter_batches(BATCH_ROWS, columns=[field]):
                column = batch.column(batch.schema.get_field_index(path[0]))  # pyarrow reads all columns that match
                for name in path[1:]:
                    column = column.flatten()[column.type.get_field_index(name)]
                try:
                    texts = column.to_pylist()
                except UnicodeDecodeError:
                    texts = (value.as_py() for value in column)  # up to the row that is not UTF-8
                for text in texts:
                    yield text or ""
                    row += 1
            if row != parquet.metadata.num_rows:
                raise ValueError(f"{file}: {row} rows, but its footer says {parquet.metadata.num_rows}")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}, row {row}: not UTF-8 ({error.reason})") from error
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not readable as Parquet ({' '.join(str(error).split())})") from error


def _column_path(file: Path, field: str, columns: pa.Schema) -> list[str]:
    """The names that lead to a field of text: `a.b` is the column with that name, or else the field `b` of `a`."""
    paths = _find_columns(field, columns)
    if not paths:
        raise _no_field(str(file), field, columns.names)
    if len(paths) > 1:
        raise ValueError(f"{file}: {len(paths)} columns are called {field!r}")
    kind = paths[0][-1].type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise ValueError(f"{file}: column {field!r} must be text, found {kind}")
    return [column.name for column in paths[0]]


def _find_columns(field: str, columns: Iterable[pa.Field]) -> list[list[pa.Field]]:
    columns = list(columns)
    if exact := [[column] for column in columns if column.name == field]:
        return exact
    return [
        [column, *path]
        for column in columns
        if field.startswith(f"{column.name}.") and pa.types.is_struct(column.type)
        for path in _find_columns(field.removeprefix(f"{column.name}."), column.type)
    ]
