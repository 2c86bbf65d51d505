"""Rebuild everything in a scratch folder and compare the bytes with dvc.lock.

The scratch folder, .work/verify, contains the files of this working tree, including uncommitted changes, and an empty
cache, so nothing is reused. Exit code 0 if all artifacts are identical, 1 if one differs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tiny_lm.io.files import sha256
from tiny_lm.io.params import flat, read_yaml
from tiny_lm.runner.dvc_lock import recorded_outputs
from tiny_lm.runner.git import dvc, environment, git
from tiny_lm.terminal import Parser

SCRATCH = Path(".work/verify")
MAY_DIFFER = "results/train/hardware/"  # time, throughput and machine
MAX_DETAILS = 5  # shown per artifact


@dataclass(frozen=True)
class Result:
    """A rebuilt artifact compared with dvc.lock."""

    state: Literal["identical", "may differ", "differs"]
    details: list[str]


def main(argv: list[str]) -> None:
    parser = Parser("verify", __doc__, "--json")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    args = parser.parse_args(argv)
    expected = _outs(Path("dvc.lock"))
    if SCRATCH.is_symlink():
        raise ValueError(f"{SCRATCH} is a link, and verify deletes its content; remove the link")
    if SCRATCH.exists():
        shutil.rmtree(SCRATCH)
    try:
        tree = copy_tree(SCRATCH)
        build(tree)
    except (KeyboardInterrupt, SystemExit):  # an unfinished rebuild is of no use
        shutil.rmtree(SCRATCH, ignore_errors=True)
        raise
    rebuilt = _outs(tree / "dvc.lock")
    results = {path: _compare(Path(path), md5, tree / path, rebuilt.get(path)) for path, md5 in expected.items()}
    differing = sum(result.state == "differs" for result in results.values())
    if not differing:
        shutil.rmtree(SCRATCH)
    if args.json:
        print(json.dumps({path: asdict(result) for path, result in results.items()}, indent=2))
    else:
        print(_table(results))
    if differing:
        raise ValueError(f"{differing} of {len(results)} artifacts differ; the rebuild is in {tree}")


def _outs(lock: Path) -> dict[str, str]:
    """{path: MD5} of the outputs in a lock file."""
    if not lock.exists():
        raise ValueError("dvc.lock is missing, so there is nothing to compare with; run `dvc repro`")
    return {out.path: out.md5 for out in recorded_outputs(lock)}


def copy_tree(scratch: Path) -> Path:
    """Copies the files that Git tracks or would add into a new Git repository in `scratch`, and links other data that
    stages read. Returns the folder of the copy.

    Data outside of this folder, as in `dataset.path: ../texts`, is linked at the same relative path, so the copy is
    nested in `scratch` as deep as the path goes up.
    """
    inputs = _inputs()
    up = max((Path(os.path.normpath(path)).parts.count("..") for path in inputs), default=0)
    names = [*["root"] * up, *Path.cwd().parts[1:]]  # of the parent folders, so that ../NAME/texts works too
    tree = scratch.joinpath(*names[len(names) - up :])
    for name in filter(None, git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")):
        if Path(name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, tree / name)
    for path in inputs:
        link = Path(os.path.normpath(tree / path))
        if not path.is_absolute() and not link.exists():
            assert link.is_relative_to(scratch), link
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    git("init", "--quiet", folder=tree)
    git("add", "--all", folder=tree)
    dvc("cache", "dir", "--local", ".dvc/cache", folder=tree)  # separate, whatever this repository's config says
    return tree


def _inputs() -> list[Path]:
    """The files that stages read and no stage writes, with their paths in dvc.lock."""
    stages = (read_yaml(Path("dvc.lock")).get("stages") or {}).values()
    outs = [Path(out["path"]) for stage in stages for out in stage.get("outs", ())]
    deps = {Path(dep["path"]) for stage in stages for dep in stage.get("deps", ())}
    files = [file for dep in sorted(deps) for file in (sorted(dep.rglob("*")) if dep.is_dir() else [dep])]
    return [file for file in files if file.is_file() and not any(file.is_relative_to(out) for out in outs)]


def build(tree: Path) -> None:
    """Runs the whole pipeline with its output on stderr, since stdout is for the result. Ctrl-C kills all processes."""
    command = [sys.executable, "-m", "dvc", "repro", "--force"]
    with subprocess.Popen(
        command, cwd=tree, env=environment(), stdin=subprocess.DEVNULL, stdout=sys.stderr, process_group=0
    ) as process:
        try:
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if code:
        raise ValueError(f"`dvc repro --force` failed in {tree}: see above")


def _compare(here: Path, expected: str, there: Path, rebuilt: str | None) -> Result:
    if expected == rebuilt:
        return Result("identical", [])
    return Result("may differ" if str(here).startswith(MAY_DIFFER) else "differs", _details(here, there))


def _details(here: Path, there: Path) -> list[str]:
    """How the files in the workspace differ from the rebuilt ones."""
    if not here.exists():
        return [f"{here} is missing in the workspace, so there is nothing to compare; `dvc checkout` restores it"]
    names = {
        file.relative_to(root) for root in (here, there) for file in (root.rglob("*") if root.is_dir() else [root])
    }
    lines = []
    for name in sorted(names):
        old, new = here / name, there / name
        if (old.is_file() and new.is_file() and sha256(old) == sha256(new)) or old.is_dir():
            continue
        lines += [f"{old}: {difference}" for difference in _differences(old, new)]
    return lines or [f"the rebuilt files equal those in the workspace, which are not those in dvc.lock: {here}"]


def _differences(old: Path, new: Path) -> list[str]:
    if not (old.is_file() and new.is_file()):
        return ["only in the workspace" if old.is_file() else "only in the rebuild"]
    if old.suffix == ".safetensors":
        return [_tensor_difference(old, new)]
    if old.suffix == ".json":
        one, two = (dict(flat(json.loads(path.read_bytes()))) for path in (old, new))
        keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
        return [f"{key}: {one.get(key)!r} → {two.get(key)!r}" for key in keys]
    a, b = old.read_bytes(), new.read_bytes()
    first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    line = a[:first].count(b"\n") + 1
    return [f"{len(a):,} vs. {len(b):,} bytes; the first difference is at byte {first:,}, in line {line:,}"]


def _tensor_difference(old: Path, new: Path) -> str:
    from safetensors.torch import load_file  # numpy has no bfloat16

    one, two = load_file(old), load_file(new)
    if {name: t.shape for name, t in one.items()} != {name: t.shape for name, t in two.items()}:
        return "the names or shapes of the tensors differ"
    gaps = {name: (one[name].float() - two[name].float()).abs().max().item() for name in one}
    worst = max(gaps, key=lambda name: gaps[name])
    count = sum(gap > 0 for gap in gaps.values())
    return f"{count} of {len(gaps)} tensors differ, by up to {gaps[worst]:.3g} ({worst})"


def _table(results: dict[str, Result]) -> str:
    lines = []
    for path, result in results.items():
        note = " (records time and machine)" if result.state == "may differ" else ""
        lines.append(f"{result.state:<12}{path}{note}")
        details = result.details if result.state == "differs" else []
        lines += [f"            {line}" for line in details[:MAX_DETAILS]]
        lines += [f"            and {len(details) - MAX_DETAILS} more"] if len(details) > MAX_DETAILS else []
    return "\n".join(lines)
