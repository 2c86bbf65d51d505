"""`tiny-lm verify`: does a rebuild in a scratch folder give the bytes that dvc.lock records?

The scratch folder gets this working tree's files, with edits that are not committed, and a cache of its own: nothing is
taken from what was built before. Exit code 0 where all are identical, 1 where one differs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tiny_lm.config import flat, read_yaml
from tiny_lm.files import sha256
from tiny_lm.runner.dvc_lock import recorded_outputs
from tiny_lm.terminal import Parser

SCRATCH = Path(".work/verify")
MAY_DIFFER = "results/train/hardware/"  # time, throughput and the machine
SHOWN = 5  # differences of one artifact


def main(argv: list[str]) -> None:
    parser = Parser("verify", __doc__, "--json")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for scripts")
    args = parser.parse_args(argv)
    recorded = _outs(Path("dvc.lock"))
    if SCRATCH.exists():
        shutil.rmtree(SCRATCH)
    try:
        _copy_tree(SCRATCH)
        _build(SCRATCH)
    except (KeyboardInterrupt, SystemExit):  # nobody will look at a part of it
        shutil.rmtree(SCRATCH, ignore_errors=True)
        raise
    rebuilt = _outs(SCRATCH / "dvc.lock")
    result = {path: _compare(path, md5, rebuilt.get(path)) for path, md5 in recorded.items()}
    differs = [path for path, found in result.items() if found["state"] == "differs"]
    if not differs:
        shutil.rmtree(SCRATCH)
    print(json.dumps(result, indent=2) if args.json else _report(result))
    if differs:
        raise ValueError(f"{len(differs)} of {len(result)} artifacts differ; what was rebuilt is in {SCRATCH}")


def _outs(lock: Path) -> dict[str, str]:
    """What a lock file records: {path: md5}."""
    if not lock.exists():
        raise ValueError("dvc.lock: there is none, so nothing to compare with; `dvc repro` builds and records")
    return {out.path: out.md5 for out in recorded_outputs(lock)}


def _copy_tree(target: Path) -> None:
    """The files that Git has or would add, in a Git repository of their own, and links to data that no stage makes."""
    listing = _run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listing.split("\0")):
        if Path(name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, target / name)
    stages = (read_yaml(Path("dvc.lock")).get("stages") or {}).values()
    made = [Path(out["path"]) for stage in stages for out in stage.get("outs", ())]
    for dep in [Path(dep["path"]) for stage in stages for dep in stage.get("deps", ())]:
        for file in [file for file in dep.rglob("*") if file.is_file()] if dep.is_dir() else [dep]:
            if not any(file.is_relative_to(path) for path in made) and not (target / file).exists():
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                (target / file).symlink_to(file.resolve())
    for words in (("init", "--quiet"), ("add", "--all")):
        _run("git", *words, folder=target)
    _run("dvc", "cache", "dir", "--local", ".dvc/cache", folder=target)  # of its own, whatever config says


def _build(folder: Path) -> None:
    """What it prints goes to stderr: stdout is the report's. Ctrl-C ends all of it at once: nothing there is needed."""
    command = [sys.executable, "-m", "dvc", "repro", "--force"]
    with subprocess.Popen(
        command, cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=sys.stderr, process_group=0
    ) as build:
        try:
            code = build.wait()
        except BaseException:
            os.killpg(build.pid, signal.SIGKILL)
            raise
    if code:
        raise ValueError(f"`dvc repro --force` failed in {folder}: see above")


def _run(*command: str, folder: Path = Path(".")) -> str:
    """What the command prints. ValueError where it fails."""
    dvc = [sys.executable, "-m"] if command[0] == "dvc" else []
    done = subprocess.run(
        [*dvc, *command], cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise ValueError(f"`{' '.join(command)}` failed in {folder}: {done.stderr[-500:]}")
    return done.stdout


def _environment() -> dict[str, str]:
    """This process's, with this Python first, and none of another repository."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_ROOT", "GIT_"))}
    return environment | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"}


def _compare(path: str, recorded: str, rebuilt: str | None) -> dict[str, Any]:
    if recorded == rebuilt:
        return {"state": "identical"}
    details = _details(Path(path), SCRATCH / path)
    return {"state": "may differ" if path.startswith(MAY_DIFFER) else "differs", "details": details}


def _details(here: Path, there: Path) -> list[str]:
    """Where and how the files of the workspace differ from those that were rebuilt."""
    if not here.exists():
        return [f"{here} is not in the workspace, to compare with; `dvc checkout` or `dvc pull` brings it"]
    names = {
        file.relative_to(root) for root in (here, there) for file in (root.rglob("*") if root.is_dir() else [root])
    }
    lines = []
    for name in sorted(names):
        old, new = here / name, there / name
        if (old.is_file() and new.is_file() and sha256(old) == sha256(new)) or old.is_dir():
            continue
        lines += [f"{old}: {what}" for what in _difference(old, new)]
    return lines or [f"the files in the workspace are those that were rebuilt, and not what dvc.lock records of {here}"]


def _difference(old: Path, new: Path) -> list[str]:
    if not (old.is_file() and new.is_file()):
        return ["only in the workspace" if old.is_file() else "only in what was rebuilt"]
    if old.suffix == ".safetensors":
        return _tensors(old, new)
    if old.suffix == ".json":
        one, two = (dict(flat(json.loads(path.read_bytes()))) for path in (old, new))
        keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
        return [f"{key}: {one.get(key)!r} → {two.get(key)!r}" for key in keys]
    a, b = old.read_bytes(), new.read_bytes()
    first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    line = a[:first].count(b"\n") + 1
    return [f"{len(a):,} and {len(b):,} bytes, the first that differs is number {first:,}, in line {line:,}"]


def _tensors(old: Path, new: Path) -> list[str]:
    from safetensors.numpy import load_file

    one, two = load_file(old), load_file(new)
    if {name: t.shape for name, t in one.items()} != {name: t.shape for name, t in two.items()}:
        return ["other tensors, or of other shapes"]
    gaps = {name: float(abs(one[name] - two[name]).max()) for name in one}
    worst = max(gaps, key=lambda name: gaps[name])
    count = sum(gap > 0 for gap in gaps.values())
    return [f"{count} of {len(gaps)} tensors differ, by up to {gaps[worst]:.3g} ({worst})"]


def _report(result: dict[str, Any]) -> str:
    lines = []
    for path, found in result.items():
        note = " (it records time and machine)" if found["state"] == "may differ" else ""
        lines.append(f"{found['state']:<12}{path}{note}")
        details = found.get("details", []) if found["state"] == "differs" else []
        lines += [f"            {line}" for line in details[:SHOWN]]
        lines += [f"            and {len(details) - SHOWN} more"] if len(details) > SHOWN else []
    return "\n".join(lines)
