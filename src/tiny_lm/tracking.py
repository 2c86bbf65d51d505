"""Keeps the text at `dataset.path` under version control, so that clones and queued experiments have it too.

Experiments run in a copy of what Git and DVC track. `tiny-lm preset` therefore adds the files that the corpus stage
reads: small text to Git, the rest to DVC, and text from outside the repository after copying it to data/raw. The corpus
stage warns about files that are in neither.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tiny_lm.io.files import sha256
from tiny_lm.runner.dvc_lock import recorded_outputs
from tiny_lm.runner.git import dvc, git

COPIES = Path("data/raw")
GIT_BYTES, GIT_FILES = 10_000_000, 1000  # larger inputs go to DVC
COPIED_BYTES = 10_000_000_000  # larger ones stay outside the repository


def track(path: Path, files: list[Path]) -> tuple[Path, str]:
    """Adds the files at `path` that neither Git nor DVC tracks. Returns the `dataset.path` to use, and a line for the
    user, which is empty if nothing had to be done. ValueError with the words of Git or DVC if they fail.
    """
    here = Path.cwd()
    if path.is_absolute() and path.resolve().is_relative_to(_root()):  # other clones are in another folder
        files = [Path(os.path.relpath(file.resolve(), here)) for file in files]
        path = Path(os.path.relpath(path.resolve(), here))
    missing = untracked(files)
    if not missing:
        return path, ""
    if Path(os.path.abspath(path)).is_relative_to(here):
        for file in missing:
            if not file.resolve().is_relative_to(here):
                raise ValueError(
                    f"{file}: is a link to {file.resolve()}, which is outside of this repository; replace the link "
                    "with a copy, or set dataset.path to the file or folder itself"
                )
        return path, _add(path, missing)
    size = sum(file.stat().st_size for file in files)
    if size > COPIED_BYTES:
        copy = COPIES / path.name
        command = shlex.join(["dvc", "add", "--out", str(copy), str(path)])
        return path, (
            f"{path} ({size / 1e9:.0f} GB) is outside of this repository, so other clones will not have it; to put a "
            f"copy under version control, run `{command}` and set dataset.path={copy}"
        )
    copy, copies = _copy(path, files)
    return copy, f"copied {path} to {copy}, which is the one to edit from now on; {_add(copy, copies)}"


def warning(path: Path, files: list[Path]) -> str:
    """A line for the user if a file at `dataset.path` is under no version control, or else an empty one."""
    try:
        missing = untracked(files)
    except (ValueError, OSError) as error:
        return f"could not check whether dataset.path = {str(path)!r} is under version control: {error}"
    if not missing:
        return ""
    more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
    command = shlex.join(["tiny-lm", "preset", f"dataset.path={path}"])
    return (
        f"{missing[0]}{more}: tracked by neither Git nor DVC, so other clones and queued experiments will not have it; "
        f"run `{command}` to add it"
    )


def untracked(files: Iterable[Path]) -> list[Path]:
    """Those of the files that a clone would not have, even after `dvc pull`; for a link, its target counts too."""
    root, known = _root(), _known()

    @cache
    def covered(path: Path) -> bool:
        if path in known or path.with_name(path.name + ".dvc") in known:
            return True
        return path != root and path.is_relative_to(root) and covered(path.parent)

    return [file for file in files if not (covered(Path(os.path.abspath(file))) and covered(file.resolve()))]


def _root() -> Path:
    """Git's top folder, which may be above this project."""
    return Path(git("rev-parse", "--show-toplevel").removesuffix("\n"))


def _known() -> set[Path]:
    """The files in Git's index and the outputs in dvc.lock, as absolute paths."""
    root = _root()
    names = git("ls-files", "-z", folder=root).split("\0")
    outputs = {Path(os.path.abspath(out.path)) for out in recorded_outputs(Path("dvc.lock"))}
    return {root / name for name in names if name} | outputs


def _copy(path: Path, files: list[Path]) -> tuple[Path, list[Path]]:
    """Copies the files to data/raw. (the copy of `path`, the copies of its files)"""
    copy = COPIES / (path.name or path.resolve().name)
    copies = {copy / file.relative_to(path) if path.is_dir() else copy: file for file in files}
    different = [new for new, old in copies.items() if new.exists() and sha256(new) != sha256(old)]
    if different or (copy.exists() and copy.is_dir() != path.is_dir()):
        raise ValueError(
            f"{copy}: exists and differs from {path}, which is outside of this repository; set dataset.path={copy} to "
            f"use what is there, or remove it first"
        )
    for new, old in copies.items():
        if not new.exists():
            draft = new.with_name(new.name + ".tmp")
            new.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(old, draft)
                draft.replace(new)
            finally:
                draft.unlink(missing_ok=True)
    return copy, list(copies)


def _add(path: Path, missing: list[Path]) -> str:
    """Adds the files to Git, or to DVC if they are large, ignored by Git or in a Git repository of their own."""
    occupied = {folder for file in _known() for folder in file.parents}
    top, targets = Path(os.path.abspath(path)), set()
    for file in missing:  # whole folders if nothing in them is tracked yet
        target = Path(os.path.abspath(file))
        while target != top and target.parent not in occupied:
            target = target.parent
        targets.add(os.path.relpath(target))
    size = sum(file.stat().st_size for file in missing)
    amount = f"{len(missing):,} files, {size / 1e6:.1f} MB" if len(missing) > 1 else f"{size / 1e6:.1f} MB"
    folders = {path, *(folder for file in missing for folder in file.parents if folder.is_relative_to(path))}
    nested = any((folder / ".git").exists() for folder in folders if folder != Path())
    if size <= GIT_BYTES and len(missing) <= GIT_FILES and not nested and not _ignored(missing):
        git("--literal-pathspecs", "add", "--", *targets)
        return f"added {path} to Git ({amount}); `git commit` records it"
    dvc("add", *targets)
    notes = {f"{target}.dvc" for target in targets} | {str(Path(target).parent / ".gitignore") for target in targets}
    git("--literal-pathspecs", "add", "--", *(note for note in notes if Path(note).exists()))
    return (
        f"added {path} to DVC ({amount}); `git commit` records it, `dvc push` uploads it for other clones, and "
        f"`{shlex.join(['dvc', 'unprotect', *sorted(targets)[:1]])}` makes it writable"
    )


def _ignored(files: list[Path]) -> bool:
    command = ("--literal-pathspecs", "ls-files", "--others", "--ignored", "--exclude-standard", "--")
    return bool(git(*command, *map(str, files)))
