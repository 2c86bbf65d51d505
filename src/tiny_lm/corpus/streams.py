"""Text files as streams: decompressed, decoded as UTF-8, without a byte order mark.

Text is taken exactly as it is, line endings included. A file that is damaged, or that is not UTF-8, is a ValueError
that names the file and the place in it: nothing is guessed, replaced or skipped.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
BLOCK_BYTES = 2**20
_BUFFER_BYTES = 2**16
_HEAD_BYTES = 512  # enough to recognize a tar archive

_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"PK\x03\x04", b"7z\xbc\xaf\x27\x1c")
_UTF_32 = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32"}  # first: one begins like UTF-16
_BYTE_ORDER_MARKS = _UTF_32 | {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}

TextBytes: TypeAlias = "io.BufferedReader[Any]"


@contextmanager
def open_text(file: Path) -> Iterator[tuple[TextBytes, int]]:
    """The decompressed bytes of a text file after its byte order mark, and the length of the mark: 0 or 3."""
    with open_stream(file) as stream:
        head = stream.peek(_HEAD_BYTES)
        if problem := _not_text(head):
            raise ValueError(f"{file}: {problem}")
        mark = codecs.BOM_UTF8 if head.startswith(codecs.BOM_UTF8) else b""
        stream.read(len(mark))
        yield stream, len(mark)


@contextmanager
def open_stream(file: Path) -> Iterator[TextBytes]:
    """The bytes of a file, decompressed according to its suffix."""
    compression = file.suffix.lower()
    if compression not in COMPRESSIONS:
        with io.BufferedReader(io.FileIO(file), _BUFFER_BYTES) as stream:
            yield stream
        return
    try:
        if file.stat().st_size == 0:
            raise EOFError("the file is empty")
        with file.open("rb") as raw, io.BufferedReader(_decompress(raw, compression), _BUFFER_BYTES) as stream:
            yield stream
    except (EOFError, OSError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system's error, not the content's
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{file}: damaged or incomplete {compression} file ({reason}); download or compress it again"
        ) from error


def _decompress(raw: BinaryIO, compression: str) -> io.RawIOBase:
    match compression:
        case ".gz":
            return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]  # has all that BufferedReader calls
        case ".zst":
            return pa.CompressedInputStream(raw, "zstd")
        case ".bz2":
            return _Decompressor(raw, bz2.BZ2Decompressor)
        case _:
            return _Decompressor(raw, lzma.LZMADecompressor)


class _Decompressor(io.RawIOBase):
    """Concatenated bz2 or xz streams. `bz2.open` and `lzma.open` silently ignore a second stream that is damaged."""

    def __init__(self, raw: BinaryIO, new: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]) -> None:
        self._raw, self._new, self._current = raw, new, new()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = 0
        while size < len(buffer):
            data = b""
            if self._current.eof:
                data = self._current.unused_data.lstrip(b"\0")  # xz pads with zeros
                while not data:
                    if not (block := self._raw.read(_BUFFER_BYTES)):
                        return size
                    data = block.lstrip(b"\0")
                self._current = self._new()
            elif self._current.needs_input:
                data = self._raw.read(_BUFFER_BYTES)
                if not data:
                    raise EOFError("it ends too early")
            chunk = self._current.decompress(data, len(buffer) - size)
            buffer[size : size + len(chunk)] = chunk
            size += len(chunk)
        return size


def _not_text(head: bytes) -> str | None:
    """What a file is that begins with `head`, and what to do, if it is not text in UTF-8."""
    if head.startswith(_COMPRESSED) or (head[:3] == b"BZh" and head[4:10] == b"1AY&SY"):
        return f"compressed; decompress it, or add the suffix ({', '.join(COMPRESSIONS)} can be read)"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if head.startswith(mark)), None)
    if encoding is None and len(head) >= 4 and any(head[0::2]) != any(head[1::2]):  # every second byte is zero
        encoding = "UTF-16BE" if any(head[1::2]) else "UTF-16LE"
    return encoding and f"{encoding}, must be UTF-8; convert it: `iconv -f {encoding} -t UTF-8 OLD > NEW`"


def decoded_blocks(file: Path) -> Iterator[str]:
    """The text of a file in blocks of about 1 MiB."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_text(file) as (stream, start):  # start: offset in the file of the next block
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


def decoded_lines(file: Path) -> Iterator[str]:
    """The lines of a file with their endings; only a newline character ends a line."""
    with open_text(file) as (stream, start):
        for line in stream:
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(file, start + error.start) from error
            start += len(line)


def _not_utf8(file: Path, offset: int) -> ValueError:
    return ValueError(f"{file}: not UTF-8 at byte {offset}; convert it, for example with iconv")
