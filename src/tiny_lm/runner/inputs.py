"""Checks inputs and outputs of stages byte by byte: against dvc.lock, and shards and documents against their metadata.

DVC knows a file by its size and time, and trusts what a remote sends. So before a stage starts, the runner reads all
that the stage will read, once:

    python -m tiny_lm.runner.inputs PATH …     prints the first fault, in one line
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tiny_lm.runner.dvc_lock import Output, list_folder, list_md5, md5, new_md5, recorded_outputs
from tiny_lm.runner.environment import missing_package

CORPUS, SHARDS = Path("data/corpus"), Path("data/shards")


def check_paths(paths: Sequence[Path], outputs: Sequence[Output]) -> None:
    """Raises ValueError that names the first fault and the remedy. A path that dvc.lock does not record yet, or that
    no stage writes, is only compared with its own metadata, if it has any.
    """
    recorded = {Path(output.path): output for output in outputs}
    for path in paths:
        hashes: dict[Path, hashlib._Hash] = defaultdict(new_md5)  # of the files that have been read

        def on_bytes(file: Path, data: memoryview) -> None:
            hashes[file].update(data)  # noqa: B023

        output = recorded.get(path)
        if output and not path.exists():
            raise ValueError(f"{path}: no such file or folder; {_remedy(output)}")
        if path in (CORPUS, SHARDS) and path.exists():
            from tiny_lm.runner.verify import verify_corpus, verify_shards

            try:
                (verify_corpus if path == CORPUS else verify_shards)(path, on_bytes)
            except ValueError:
                if output:
                    _compare(output, {})  # if that fails, too, it is what the user should know
                raise
        if output:
            _compare(output, {file: digest.hexdigest() for file, digest in hashes.items()})


def _compare(output: Output, known: dict[Path, str]) -> None:
    path = Path(output.path)
    if path.is_dir():
        listing = list_folder(path, known)
        if list_md5(listing) != output.md5:
            raise ValueError(f"{_culprit(path, listing, output.md5)}: not what dvc.lock records; {_remedy(output)}")
    elif md5(path) != output.md5:
        raise ValueError(f"{path}: not what dvc.lock records; {_remedy(output)}")


def _culprit(folder: Path, found: list[dict[str, str]], digest: str) -> Path:
    """The first file that differs, if DVC's cache still has the recorded list; else the folder."""
    try:
        recorded = json.loads(Path(".dvc/cache/files/md5", digest[:2], digest[2:]).read_bytes())
        if list_md5(recorded) != digest:
            return folder
        there, here = ({e["relpath"]: e["md5"] for e in entries} for entries in (recorded, found))
        return folder / min(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    except (OSError, ValueError, TypeError, KeyError):
        return folder


def _remedy(output: Output) -> str:
    return f"`tiny-lm restore {output.stage}` restores it, `dvc repro {output.stage}` rebuilds it"


if __name__ == "__main__":
    try:
        check_paths([Path(path) for path in sys.argv[1:]], recorded_outputs(Path("dvc.lock")))
    except ValueError as error:
        sys.exit(str(error))
    except ModuleNotFoundError as error:
        sys.exit(missing_package(str(error.name)))
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
