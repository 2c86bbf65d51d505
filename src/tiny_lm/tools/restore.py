"""`tiny-lm restore [STAGE …]`: puts back what dvc.lock records of stages, metrics and plots included.

It goes over what is there now, and a file that cannot be put back does not stop the rest. `dvc checkout` brings back
what DVC caches, `git checkout` the metrics and plots of the last commit. But those of an experiment that is not
committed are in neither's hands: DVC's cache has them, since it saves every run, yet checks them out only where it
takes a whole run from its cache.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiny_lm.config import parse_yaml, read_yaml
from tiny_lm.frame import RUNNING
from tiny_lm.guard import hold
from tiny_lm.lock import md5
from tiny_lm.terminal import Parser

PLACES = ("outs", "metrics", "plots")  # of a stage in dvc.yaml


def main(argv: list[str]) -> None:
    parser = Parser("restore", __doc__, "train")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="default: all that dvc.lock names")
    parser.add_argument("--locked", action="store_true", help=argparse.SUPPRESS)  # by the stage that asks for it
    args = parser.parse_args(argv)
    _lock = args.locked or hold(Path(".work/lock"), "a stage runs in this workspace: wait for it, or stop it")
    plan = read_yaml(Path("dvc.yaml"))["stages"]
    unknown = [name for name in args.stages if name not in plan]
    if unknown:
        raise ValueError(f"dvc.yaml has no stage {unknown[0]!r}; there are {', '.join(plan)}")
    lock = Path("dvc.lock")
    recorded = (read_yaml(lock).get("stages") or {}) if lock.exists() else {}
    failures = []
    for name in args.stages or plan:
        if name in recorded:
            back, failed = restore(name, plan[name], recorded[name])
            if back:
                print(f"restored {', '.join(back)}", flush=True)
            failures += failed
    if failures:
        raise ValueError(f"{'; '.join(failures)}; `dvc pull` may fetch what is missing, `dvc repro` builds it")
    if not args.stages or (RUNNING.exists() and RUNNING.read_text() in args.stages):
        RUNNING.unlink(missing_ok=True)  # the next stage need not tell how outputs come back


def restore(name: str, plan: Mapping[str, Any], recorded: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The paths that were put back, and a line about each that could not be, which keeps none of the others."""
    cached = [entry if isinstance(entry, str) else next(iter(entry)) for entry in plan.get("outs", ())]
    kept = [e if isinstance(e, str) else next(iter(e)) for key in PLACES for e in plan.get(key, ())]
    cache = Path(_dvc("cache", "dir").strip(), "files", "md5")
    back, failures = [], []
    for out in recorded["outs"]:
        path = out["path"]
        try:
            if path not in kept:
                raise ValueError(f"dvc.lock: {path} is no output of {name} in dvc.yaml")
            if path in cached:
                if _sound(cache, out) is not None:  # DVC would take what is there by its size and time
                    shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink(missing_ok=True)
                _dvc("checkout", "--force", path)
            elif not (_from_cache(cache, out) or _from_commit(name, recorded, path)):
                raise ValueError(
                    f"{path}: neither DVC's cache nor the last commit has it (of an experiment, `dvc exp apply` does)"
                )
            back.append(path)
        except ValueError as error:
            failures.append(str(error))
    return back, failures


def _from_cache(cache: Path, out: Mapping[str, str]) -> bool:
    listed = _sound(cache, out)
    for file, source in (listed or {}).items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        shutil.copyfile(source, file)
    return listed is not None


def _sound(cache: Path, out: Mapping[str, str]) -> dict[Path, Path] | None:
    """The files of an output and where DVC's cache has them, each read and compared with its name; None unless all are
    there. One that is damaged is deleted, since DVC would trust it, and so is the output, which may be a link to it.
    """
    path, top = Path(out["path"]), _object(cache, out["md5"])
    whole = [_is_whole(top)]
    files = {path: top}
    if out["md5"].endswith(".dir") and all(whole):
        files = {file: _object(cache, digest) for file, digest in _listing(path, top).items()}
        whole = [_is_whole(file) for file in files.values()]
    if False in whole:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return files if all(whole) else None


def _is_whole(file: Path) -> bool | None:
    """Whether a file of DVC's cache is what its name says; else it is deleted. None where there is no such file."""
    if not file.exists():
        return None
    if md5(file) == file.parent.name + file.name.removesuffix(".dir"):
        return True
    file.unlink()
    print(f"{file}: was not what its name says, and is deleted now", file=sys.stderr)
    return False


def _listing(folder: Path, file: Path) -> dict[Path, str]:
    """What DVC's list of a folder says is in it. It came from a remote: it may name no file outside of the folder."""
    try:
        listed = {folder / entry["relpath"]: entry["md5"] for entry in json.loads(file.read_bytes())}
        inside = all(path != folder and ".." not in path.parts and path.is_relative_to(folder) for path in listed)
    except (ValueError, TypeError, KeyError, RecursionError):
        inside = False
    if not inside:
        raise ValueError(f"{file}: not a list of the files in {folder}; delete it, and `dvc pull` or `dvc repro`")
    return listed


def _object(cache: Path, md5: str) -> Path:
    if not isinstance(md5, str) or not re.fullmatch(r"[0-9a-f]{32}(\.dir)?", md5):
        raise ValueError(
            f"{str(md5)[:80]!r}: not a checksum of DVC's; `dvc pull` or `dvc repro` makes good what has it"
        )
    return cache / md5[:2] / md5[2:]


def _from_commit(name: str, recorded: Mapping[str, Any], path: str) -> bool:
    """Whether the last commit is of the same run, whose file then is put back."""
    head = subprocess.run(["git", "show", "HEAD:./dvc.lock"], capture_output=True, text=True)
    if head.returncode or (parse_yaml(head.stdout, "dvc.lock").get("stages") or {}).get(name) != recorded:
        return False
    return subprocess.run(["git", "checkout", "--quiet", "HEAD", "--", path], capture_output=True).returncode == 0


def _dvc(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise ValueError(f"`dvc {' '.join(arguments)}` failed: {done.stderr[-500:].strip()}")
    return done.stdout
