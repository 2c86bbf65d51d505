"""Files that are there whole or not at all, and their checksums."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """What `write` puts into a file, which takes its name when all of it is on the disk."""
    draft = path.with_name(path.name + ".tmp")
    try:
        with draft.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Indented JSON in ASCII, which also holds what UTF-8 cannot: a file's name may be no text."""
    write_whole(path, lambda file: file.write((json.dumps(content, indent=2) + "\n").encode()))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
