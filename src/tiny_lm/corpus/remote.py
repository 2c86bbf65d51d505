"""Files behind a URL, through fsspec: listed, and read in ranges of bytes. None is ever downloaded as a whole.

A file has a version: the ETag of S3 and HTTP, or whatever its storage has instead. `check` compares it, so that no file
is read that changes meanwhile. A range whose connection drops is read again.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 1.0  # doubled after each attempt
MIN_RANGE, MAX_RANGE = 2**18, 2**23  # bytes; doubled while a file is read in order
BUFFER_BYTES = 2**17
CHECKSUMS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "blob_id")
TIMES = ("LastModified", "Last-Modified", "last_modified", "updated", "mtime", "created")  # if there is no checksum


class RemoteError(ValueError):
    """Names the URL, and has nothing to do with the contents of the file."""


class Size(NamedTuple):
    st_size: int


@dataclass(frozen=True, order=True)
class RemoteFile:
    """The part of pathlib's interface that readers use."""

    url: str
    size: int
    version: str | None  # None: the storage has none

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.partition("?")[0].rpartition("/")[2]

    @property
    def suffix(self) -> str:
        dot = self.name.rfind(".")
        return self.name[dot:] if dot > 0 else ""

    def stat(self) -> Size:
        return Size(self.size)

    def open(self, mode: str = "rb") -> io.BufferedReader[Any]:
        assert mode == "rb"
        return io.BufferedReader(_Ranges(self), BUFFER_BYTES)

    def until(self, end: int) -> RemoteFile:
        """The beginning of the file, so that nothing behind it is read ahead."""
        return replace(self, size=end)

    def read_range(self, start: int, end: int) -> bytes:
        """These bytes of the file, which must be inside of it."""

        def read() -> bytes:
            system, path = _open(self.url)
            data = self._fetch(system, path, start, end)
            if len(data) < end - start:
                raise ConnectionError(f"{len(data)} of {end - start} bytes")
            return data

        return _retry(read, self.url)

    def _fetch(self, system: Any, path: str, start: int, end: int) -> bytes:
        if "http" not in system.protocol:
            data: bytes = system.cat_file(path, start=start, end=end)  # s3fs has other places for them
            return data
        # `cat_file` would read all that a server sends, the whole file if it ignores ranges.
        with system.open(path, cache_type="none", size=self.size) as file:
            file.seek(start)
            try:
                data = file.read(end - start)
            except ValueError:
                raise RemoteError(
                    f"{self.url}: the server ignores ranges; download the file, and use source: local"
                ) from None
        return data

    def check(self) -> None:
        """Raises ValueError unless the file is the one that was listed."""
        now = _retry(lambda: _file(*_open(self.url)), self.url)
        if now != self:
            what = "size" if now.version == self.version else "version"
            raise RemoteError(
                f"{self.url}: changed while the corpus was made ({what} {getattr(self, what)}, now "
                f"{getattr(now, what)}); run the same command again"
            )


def list_url(url: str) -> list[RemoteFile]:
    """The files at a URL, sorted: one file, those that match a pattern with `*`, or all in a folder.

    Raises ValueError, in one line, if there are none, or they cannot be listed.
    """

    def find() -> list[RemoteFile]:
        system, path = _open(url)
        if "*" in path:
            found = system.glob(path, detail=True)
        elif url.endswith("/") or (not url.startswith("http") and system.isdir(path)):
            found = system.find(path, detail=True)
        else:
            return [_file(system, path)]
        files = [(name, info) for name, info in sorted(found.items()) if info["type"] == "file"]
        # a list may show the time of a file in another form than a look at the file
        listed = all(any(info.get(key) for key in CHECKSUMS) for _, info in files)
        return [_of_info(system, name, info) if listed else _file(system, name) for name, info in files]

    files = _retry(find, url)
    if not files:
        raise RemoteError(f"{url}: no files there")
    return files


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL, with the path in it. A process opens each once."""
    import fsspec

    protocol = url.partition("://")[0]
    try:
        # without listings of the past, in which a file does not change
        system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:  # not installed, or no such protocol
        reason = " ".join(str(error).split())
        raise RemoteError(f"{url}: {protocol}:// cannot be read ({reason})") from error
    return system, path


def _file(system: Any, path: str) -> RemoteFile:
    return _of_info(system, path, system.info(path))


def _of_info(system: Any, path: str, info: dict[str, Any]) -> RemoteFile:
    url = system.unstrip_protocol(path)
    if info.get("size") is None:
        raise RemoteError(f"{url}: the server does not report its size; download the file, and use source: local")
    version = next((str(info[key]) for key in (*CHECKSUMS, *TIMES) if info.get(key)), None)
    return RemoteFile(url, int(info["size"]), version and version.strip('"'))


def _retry(action: Callable[[], T], url: str) -> T:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except RemoteError:
            raise
        except Exception as error:  # each storage has its own
            cause = error.__cause__ or error
            # fsspec raises FileNotFoundError for whatever fails in a look at an HTTP file
            missing = cause is error or hasattr(cause, "response") or getattr(cause, "status", None) == 404
            permanent = isinstance(error, PermissionError) or (isinstance(error, FileNotFoundError) and missing)
            if permanent or attempt == ATTEMPTS:
                reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
                tried = "" if permanent else f" after {ATTEMPTS} attempts"
                raise RemoteError(f"{url}: not readable{tried} ({reason})") from error
            time.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
    raise AssertionError


class _Ranges(io.RawIOBase):
    """Reads ranges that grow while they are read in order, so that a look at a place costs little."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._at = file, 0
        self._start, self._data, self._next = 0, b"", MIN_RANGE

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = self._start + len(self._data)
        if not self._start <= self._at < end:
            self._next = min(2 * self._next, MAX_RANGE) if self._at == end else MIN_RANGE
            self._start, end = self._at, min(self._at + self._next, self._file.size)
            self._data = self._file.read_range(self._start, end) if end > self._start else b""
        data = self._data[self._at - self._start : self._at - self._start + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
