"""The outputs that a dvc.lock records, and the checksum by which DVC knows a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tiny_lm.config import read_yaml


def recorded(lock: Path) -> list[dict[str, str]]:
    """Path, checksum and stage of every output in dvc.lock; none where there is no such file."""
    stages = read_yaml(lock).get("stages") or {} if lock.exists() else {}
    try:
        return [
            {"path": str(out["path"]), "md5": str(out["md5"]), "stage": str(name)}
            for name, stage in stages.items()
            for out in stage.get("outs", ())
        ]
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{lock}: not one that DVC wrote; `git checkout {lock}` brings it back") from None


def md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
