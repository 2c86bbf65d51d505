"""Opens text files as streams: decompressed, decoded as UTF-8, without a byte order mark.

Text is otherwise unchanged, including line endings. A file that is damaged or not UTF-8 raises ValueError; nothing is
guessed, replaced or skipped.
"""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeAlias

import pyarrow as pa

from tiny_lm.corpus.remote import RemoteFile

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_BUFFER_BYTES = 2**17
_HEAD_BYTES = 512  # enough to recognize a tar archive

_COMPRESSED = (
    b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"PK\x03\x04", b"7z\xbc\xaf\x27\x1c",
    *(b"BZh%d1AY&SY" % level for level in range(1, 10)),
)  # fmt: skip
_BYTE_ORDER_MARKS = {  # UTF-32 first, because one of its marks begins with one of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip

Bytes: TypeAlias = "io.BufferedReader[Any]"
Span: TypeAlias = tuple[int, int]  # first byte, end


@contextmanager
def open_text(file: Path | RemoteFile, span: Span | None = None) -> Iterator[TextIO]:
    r"""Opens a file as text, in which only `\n` ends a line; with `span`, only these bytes of it. Raises ValueError if
    it is not UTF-8 text.
    """
    with _open_bytes(file, span) as stream:
        if span is None or span[0] == 0:
            head = stream.peek(_HEAD_BYTES)
            if problem := _explain_not_text(head):
                raise ValueError(problem)
            if head.startswith(codecs.BOM_UTF8):
                stream.read(len(codecs.BOM_UTF8))
        with io.TextIOWrapper(stream, "utf-8", newline="\n") as text:
            try:
                yield text
            except UnicodeDecodeError as error:
                offset = _first_invalid_byte(file)
                raise ValueError(f"not UTF-8 at byte {offset}; convert it, for example with iconv") from error


def whole_documents(file: Path | RemoteFile, span: Span, separator: str) -> Span:
    """The span of the documents that begin after a separator in `span`, or at the beginning of the file.

    Consecutive spans have consecutive documents, and each document of the file is in one of them.
    """
    start, end = span
    first = _after_separator(file, start, separator.encode()) if start else 0
    return first, _after_separator(file, end, separator.encode())


def _after_separator(file: Path | RemoteFile, offset: int, separator: bytes) -> int:
    """The end of the first separator that begins at `offset` or later; the size of the file if there is none.

    If separators overlap, as two empty lines in three line ends, it depends on what comes before which of them split
    the text. So the separator is one that no other overlaps from the left.
    """
    step = len(separator) - 1
    previous, rest = -len(separator), b""
    with file.open("rb") as stream:
        position = max(offset - step, 0)  # of the beginning of `rest`
        stream.seek(position)
        while block := stream.read(_BUFFER_BYTES):
            rest += block
            found = rest.find(separator)
            while found >= 0:
                at = position + found
                if at >= offset and at - previous > step:
                    return at + len(separator)
                previous, found = at, rest.find(separator, found + 1)
            keep = min(step, len(rest))
            position, rest = position + len(rest) - keep, rest[len(rest) - keep :]
        return stream.tell()


@contextmanager
def _open_bytes(file: Path | RemoteFile, span: Span | None = None) -> Iterator[Bytes]:
    """Opens a file as bytes, decompressed according to its suffix; or some of the bytes of an uncompressed file."""
    if span is not None:
        whole = file if isinstance(file, Path) else file.until(span[1])
        with whole.open("rb") as raw, io.BufferedReader(_SpanReader(raw, span), _BUFFER_BYTES) as stream:
            yield stream
        return
    compression = file.suffix.lower()
    if compression not in COMPRESSIONS:
        with file.open("rb") as stream:
            yield stream
        return
    try:
        if file.stat().st_size == 0:
            raise EOFError("empty file")
        with file.open("rb") as raw, io.BufferedReader(_decompress(raw, compression), _BUFFER_BYTES) as stream:
            yield stream
    except (EOFError, OSError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # from the file system, not about the content
        reason = " ".join(str(error).split())
        raise ValueError(
            f"damaged or incomplete {compression} file ({reason}); download or compress it again"
        ) from error


def _decompress(raw: BinaryIO, compression: str) -> io.RawIOBase:
    match compression:
        case ".gz":  # pyarrow rejects zero padding after the data
            return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]  # has all that BufferedReader calls
        case ".xz":
            return _XzReader(raw)
        case _:  # `bz2.open` silently ignores a damaged second stream
            return pa.CompressedInputStream(raw, {".bz2": "bz2", ".zst": "zstd"}[compression])


class _SpanReader(io.RawIOBase):
    def __init__(self, raw: BinaryIO, span: Span) -> None:
        raw.seek(span[0])
        self._raw, self._left = raw, span[1] - span[0]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._raw.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


class _XzReader(io.RawIOBase):
    """Decompresses concatenated xz streams. `lzma.open` silently ignores a damaged second stream."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw, self._xz = raw, lzma.LZMADecompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        chunk = b""
        while not chunk:
            data = b""
            if self._xz.eof:
                data = self._xz.unused_data.lstrip(b"\0")  # padding
                while not data:
                    if not (block := self._raw.read(_BUFFER_BYTES)):
                        return 0
                    data = block.lstrip(b"\0")
                self._xz = lzma.LZMADecompressor()
            elif self._xz.needs_input and not (data := self._raw.read(_BUFFER_BYTES)):
                raise EOFError("unexpected end of file")
            chunk = self._xz.decompress(data, len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)


def _explain_not_text(head: bytes) -> str | None:
    """Why a file that begins with `head` is not UTF-8 text, and what to do; None if it is."""
    if head.startswith(_COMPRESSED):
        return f"compressed; decompress it, or add its suffix ({', '.join(COMPRESSIONS)} can be read)"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if head.startswith(mark)), None)
    if encoding is None and len(head) >= 4 and any(head[0::2]) != any(head[1::2]):  # every second byte is zero
        encoding = "UTF-16BE" if any(head[1::2]) else "UTF-16LE"
    return encoding and f"{encoding}, must be UTF-8; convert it: `iconv -f {encoding} -t UTF-8 OLD > NEW`"


def _first_invalid_byte(file: Path | RemoteFile) -> int:
    offset = 0
    with _open_bytes(file) as stream:
        for line in stream:
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return offset + error.start
            offset += len(line)
    raise AssertionError
