"""The outputs that dvc.lock records, and the checksums that it records of them: MD5 sums of files and folders."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from tiny_lm.io.params import parse_yaml


@dataclass(frozen=True)
class Output:
    path: str
    md5: str  # ends in ".dir" for a folder
    stage: str


def recorded_outputs(lock: Path) -> list[Output]:
    """The outputs of all stages in `lock`; none if the file does not exist."""
    return parse_outputs(lock.read_bytes(), lock) if lock.exists() else []


def parse_outputs(text: str | bytes, name: object) -> list[Output]:
    """The outputs of all stages in the text of a dvc.lock; `name` is its name in messages."""
    try:
        stages = parse_yaml(text, name).get("stages") or {}
        return [
            Output(str(out["path"]), str(out["md5"]), str(stage))
            for stage, entry in stages.items()
            for out in entry.get("outs", ())
        ]
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{name}: not written by DVC; `git checkout {name}` restores it") from None


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def file_md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def list_folder(folder: Path) -> list[dict[str, str]]:
    """The files of a folder as DVC lists them."""
    files = [Path(root, name) for root, _, names in os.walk(folder, onerror=_raise) for name in names]
    paths = sorted(file.relative_to(folder).parts for file in files)
    return [{"md5": file_md5(folder.joinpath(*path)), "relpath": "/".join(path)} for path in paths]


def list_md5(listing: list[dict[str, str]]) -> str:
    """The checksum of a folder: that of its list."""
    return md5(json.dumps(listing, sort_keys=True).encode()) + ".dir"


def _raise(error: OSError) -> None:
    raise error
