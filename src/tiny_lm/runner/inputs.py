"""Checks the files that a stage reads, every byte of them: `python -m tiny_lm.runner.inputs PATH …`.

DVC identifies a file by its size and time, and trusts what a remote sends. So the runner compares the inputs of a stage
with dvc.lock. Shards and documents that dvc.lock does not record are compared with their own metadata.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tiny_lm.runner.dvc_lock import Output, file_md5, list_folder, list_md5, recorded_outputs
from tiny_lm.runner.messages import explain

CORPUS, SHARDS = Path("data/corpus"), Path("data/shards")


def check_paths(paths: Sequence[Path], outputs: Sequence[Output]) -> None:
    """Raises ValueError with the first file or folder that differs, and the remedy."""
    recorded = {Path(output.path): output for output in outputs}
    for path in paths:
        if path in recorded:
            _compare(path, recorded[path])
        elif path in (CORPUS, SHARDS) and path.exists():
            from tiny_lm.runner.verify import verify_corpus, verify_shards  # imports numpy and pyarrow

            (verify_corpus if path == CORPUS else verify_shards)(path)
        elif folder := next((recorded[parent] for parent in path.parents if parent in recorded), None):
            _compare_file(path, folder)


def _compare_file(path: Path, folder: Output) -> None:
    """Compares a file in a recorded folder with the recorded list, if DVC's cache has it: to hash the whole folder may
    take hours.
    """
    listing = _recorded_list(folder.md5)
    if listing is None:
        return
    if not path.exists() or (path.relative_to(folder.path).as_posix(), file_md5(path)) not in listing:
        raise ValueError(f"{path}: not what dvc.lock records; {_remedy(folder)}")


def _remedy(output: Output) -> str:
    return f"`tiny-lm restore {output.stage}` restores it, `dvc repro {output.stage}` rebuilds it"


def _compare(path: Path, output: Output) -> None:
    remedy = _remedy(output)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder; {remedy}")
    if path.is_dir():
        listing = list_folder(path)
        if list_md5(listing) != output.md5:
            raise ValueError(f"{_culprit(path, listing, output.md5)}: not what dvc.lock records; {remedy}")
    elif file_md5(path) != output.md5:
        raise ValueError(f"{path}: not what dvc.lock records; {remedy}")


def _culprit(folder: Path, listing: list[dict[str, str]], digest: str) -> Path:
    """The first file that differs, if DVC's cache still has the recorded list; else the folder."""
    recorded = _recorded_list(digest)
    return folder if recorded is None else folder / min(recorded ^ _paths_and_md5s(listing))[0]


def _recorded_list(digest: str) -> set[tuple[str, str]] | None:
    """The files of a folder with this checksum, (path, MD5) each, if DVC's cache has the list."""
    cached = Path(".dvc/cache/files/md5", digest[:2], digest[2:])
    if not cached.is_file() or f"{file_md5(cached)}.dir" != digest:
        return None
    return _paths_and_md5s(json.loads(cached.read_bytes()))


def _paths_and_md5s(listing: list[dict[str, str]]) -> set[tuple[str, str]]:
    return {(entry["relpath"], entry["md5"]) for entry in listing}


if __name__ == "__main__":
    try:
        check_paths([Path(path) for path in sys.argv[1:]], recorded_outputs(Path("dvc.lock")))
    except Exception as error:
        sys.exit(explain(error))
