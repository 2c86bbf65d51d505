"""`tiny-lm check [PATH …]`: is what lies here what dvc.lock records?

DVC remembers a file by its size and time, and takes what a remote sends under the name of a checksum; this reads every
file of the outputs, and compares shards also with their metadata. A PATH inside an output stands for all of it. Each
stage does it with what it reads, before it starts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from tiny_lm.lock import md5, recorded
from tiny_lm.terminal import Parser

SHARDS = Path("data/shards")
IGNORED = ("__pycache__", ".pyc", ".pyo")  # .dvcignore


def main(argv: list[str]) -> None:
    parser = Parser("check", __doc__, "data/shards models/checkpoint")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="outputs; default: all that dvc.lock names")
    # of a stage, which also reads what no stage makes, and what dvc.lock does not know yet
    parser.add_argument("--inputs", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    outputs = {out["path"]: out for out in recorded(Path("dvc.lock"))}
    if args.inputs:
        named = args.paths
    else:
        named = [_output_of(path, list(outputs)) for path in args.paths] or [*outputs, str(SHARDS)]
    if not args.inputs and not outputs and not SHARDS.exists():
        raise ValueError("dvc.lock: there is none, so nothing to compare with; `dvc repro` builds and records")
    checked = [path for path in outputs if path in named]
    for path in checked:
        verify(outputs[path])
    if str(SHARDS) in named and SHARDS.exists():  # also where dvc.lock does not know them
        from tiny_lm.shards.verify import verify_shards

        verify_shards(SHARDS)
    if not args.inputs:
        which = f": {', '.join(checked)}" if args.paths else ""
        print(f"{len(checked)} output{' is' if len(checked) == 1 else 's are'} what dvc.lock records{which}")


def _output_of(path: str, outputs: list[str]) -> str:
    """The output that a path typed by a user is, or lies in. ValueError where dvc.lock records none there."""
    typed = Path(os.path.relpath(path or "."))  # not resolved: DVC may have put a link to its cache there
    for place in (typed, *typed.parents):
        if place.as_posix() in outputs:
            return place.as_posix()
    there = f"there are {', '.join(outputs)}" if outputs else "there is none yet; `dvc repro` makes them"
    raise ValueError(f"{path}: no output that dvc.lock records; {there}")


def verify(out: Mapping[str, str]) -> None:
    """ValueError that names the file which is not what dvc.lock records, and how to get the one that is."""
    path = Path(out["path"])
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder; {_remedy(out)}")
    if path.is_dir():
        found = listing(path)
        digest = hashlib.md5(json.dumps(found, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"
        if digest != out["md5"]:
            raise ValueError(f"{_culprit(path, found, out['md5'])}: not what dvc.lock records; {_remedy(out)}")
    elif md5(path) != out["md5"]:
        raise ValueError(f"{path}: not what dvc.lock records; {_remedy(out)}")


def listing(folder: Path) -> list[dict[str, str]]:
    """The files of a folder as DVC lists them: the checksum of this list is the folder's."""
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return [
        {"md5": md5(names[name]), "relpath": name}
        for name in sorted(names, key=lambda name: tuple(name.split("/")))
        if not name.endswith(IGNORED[1:]) and IGNORED[0] not in name.split("/")
    ]


def _culprit(folder: Path, found: list[dict[str, str]], digest: str) -> Path:
    """The first file that differs, where DVC's cache still has the list that was recorded; else the folder."""
    try:
        content = Path(".dvc/cache/files/md5", digest[:2], digest[2:]).read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir" != digest:
            return folder
        there, here = ({e["relpath"]: e["md5"] for e in entries} for entries in (json.loads(content), found))
        return folder / min(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    except (OSError, ValueError, TypeError, KeyError):
        return folder


def _remedy(out: Mapping[str, str]) -> str:
    return f"`tiny-lm restore {out['stage']}` brings it back, `dvc repro {out['stage']}` makes it"
