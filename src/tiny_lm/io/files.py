"""Atomic writes, so that a file is complete or does not exist; reads with a size limit; SHA-256 of files."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to. It appears as `path`, complete and on disk, when the block ends without an error."""
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
