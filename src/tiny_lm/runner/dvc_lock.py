"""What dvc.lock records, and DVC's checksums, with which it is compared: MD5 of a file, MD5 of the list of a folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tiny_lm.io.params import read_yaml

IGNORED = ("__pycache__", ".pyc", ".pyo")  # as in .dvcignore


@dataclass(frozen=True)
class Output:
    path: str
    md5: str  # ends in ".dir" for a folder
    stage: str


def recorded_outputs(lock: Path) -> list[Output]:
    """The outputs of all stages in `lock`; none if the file does not exist."""
    stages = read_yaml(lock).get("stages") or {} if lock.exists() else {}
    try:
        return [
            Output(str(out["path"]), str(out["md5"]), str(name))
            for name, stage in stages.items()
            for out in stage.get("outs", ())
        ]
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{lock}: not written by DVC; `git checkout {lock}` restores it") from None


def md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, new_md5).hexdigest()


def new_md5(data: bytes = b"") -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)


def list_folder(folder: Path, known: Mapping[Path, str]) -> list[dict[str, str]]:
    """The files of a folder as DVC lists them. `known` are MD5 sums that need not be computed again."""
    names: dict[str, Path] = {}
    for root, _, files in os.walk(folder, onerror=_raise):  # unlike rglob, fails if it cannot read a folder
        names |= {Path(root, name).relative_to(folder).as_posix(): Path(root, name) for name in files}
    return [
        {"md5": known.get(names[name]) or md5(names[name]), "relpath": name}
        for name in sorted(names, key=lambda name: tuple(name.split("/")))
        if not name.endswith(IGNORED[1:]) and IGNORED[0] not in name.split("/")
    ]


def list_md5(listing: list[dict[str, str]]) -> str:
    """The checksum of a folder: that of its list."""
    return new_md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def _raise(error: OSError) -> None:
    raise error
