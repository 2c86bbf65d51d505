"""Atomic writes, so that a file is complete or does not exist, and SHA-256 of files."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to. It appears as `path` when the block ends, complete and on the disk; not after an error."""
    draft = path.with_name(path.name + ".tmp")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Lets `write` write to an atomic file."""
    with atomic_file(path) as file:
        write(file)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Indented JSON in ASCII, which can also represent file names that are not UTF-8."""
    write_whole(path, lambda file: file.write((json.dumps(content, indent=2) + "\n").encode()))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
