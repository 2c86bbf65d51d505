"""Atomic writes, so that a file is complete or does not exist; reads with a size limit; SHA-256 of files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO


class AtomicFile:
    """A file that is written as `path.tmp` and renamed to `path` when it is complete and on disk.

    A `with` block commits it, or discards it after an error. `write` hashes the content; a library that writes to
    `file` directly skips the hash.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._draft = path, path.with_name(path.name + ".tmp")
        self._hash = hashlib.sha256()
        self.file: BinaryIO = self._draft.open("wb")

    @property
    def closed(self) -> bool:  # pyarrow writes to any object with `write` and `closed`
        return self.file.closed

    def write(self, content: bytes | memoryview) -> None:
        self.file.write(content)
        self._hash.update(content)

    def commit(self) -> str:
        """Renames the file; returns the SHA-256 of what `write` got."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self._draft, self._path)
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Removes the file unless it is committed."""
        with suppress(OSError):  # closing writes what is buffered, which fails if the disk is full
            self.file.close()
        self._draft.unlink(missing_ok=True)

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.discard()


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Lets `write` write to an atomic file."""
    with AtomicFile(path) as draft:
        write(draft.file)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes indented JSON in ASCII, which can represent even file names that are not UTF-8."""
    write_whole(path, lambda file: file.write((json.dumps(content, indent=2) + "\n").encode()))


def read_json(path: Path, most: int, remedy: str) -> dict[str, Any]:
    """The object in a JSON file of at most `most` bytes, or a ValueError in one line that ends with `remedy`."""
    text = read_bytes(path, most, remedy)
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            return content
        raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); {remedy}") from None


def read_bytes(path: Path, most: int, remedy: str) -> bytes:
    """The content of a file of at most `most` bytes; ValueError if it is missing or larger."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; {remedy}")
    if path.stat().st_size > most:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, must be at most {most}; {remedy}")
    return path.read_bytes()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
