"""Opens what the corpus stage wrote: both files of documents, once they are found to be what `metadata.json` says.

Metadata comes from shared storage like the files: sizes are looked at first, and nothing is believed of either.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tiny_lm.config import read_json
from tiny_lm.corpus.documents import count_documents, read_documents
from tiny_lm.files import sha256

REMEDY = "`tiny-lm restore corpus` or `dvc pull` brings it back, `dvc repro corpus` makes it"
MAX_METADATA = 64 << 20  # bytes; it lists every file of a local source
COUNTS, CHECKSUMS = ("documents", "characters", "bytes"), ("sha256", "file_sha256")


def verify_corpus(folder: Path) -> dict[str, Callable[[], Iterator[str]]]:
    """The documents of `train` and `val`, each to be called for a stream of them. Reads all of them first. ValueError,
    in one line, names the first file that is not what the metadata says, and what to do.
    """
    splits, paths = read_corpus_metadata(folder / "metadata.json")["splits"], {}
    for split, facts in splits.items():
        paths[split] = folder / f"{split}.parquet"
        _verify(paths[split], facts)
    return {split: lambda path=path: read_documents(path) for split, path in paths.items()}  # type: ignore[misc]


def read_corpus_metadata(path: Path) -> dict[str, Any]:
    """What the metadata says: of the `source`, as it is, and of the `splits`, checked."""
    values = read_json(path, MAX_METADATA, REMEDY)
    splits = values.get("splits")
    if not isinstance(splits, dict) or splits.keys() != {"train", "val"}:
        raise ValueError(f"{path}: splits must be train and val; {REMEDY}")
    for split, facts in splits.items():
        if not isinstance(facts, dict) or facts.keys() != {*COUNTS, *CHECKSUMS}:
            keys = ", ".join(COUNTS + CHECKSUMS)
            raise ValueError(f"{path}: splits.{split} must have exactly the keys {keys}; {REMEDY}")
        for key in COUNTS:
            if type(facts[key]) is not int or not 0 <= facts[key] < 1 << 62:
                raise ValueError(
                    f"{path}: splits.{split}.{key} = {str(facts[key])[:80]!r}: must be a whole number; {REMEDY}"
                )
        for key in CHECKSUMS:
            if type(facts[key]) is not str or not re.fullmatch("[0-9a-f]{64}", facts[key]):
                raise ValueError(f"{path}: splits.{split}.{key} must be a SHA-256; {REMEDY}")
    if not isinstance(values.get("source"), dict):
        raise ValueError(f"{path}: source must be an object; {REMEDY}")
    return values


def _verify(path: Path, facts: dict[str, Any]) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; {REMEDY}")
    if sha256(path) != facts["file_sha256"]:  # first: a damaged footer can end the process inside of the library
        raise ValueError(f"{path}: its checksum is not the one in metadata.json; {REMEDY}")
    found = dict.fromkeys(COUNTS, 0)
    found["documents"] = count_documents(path)
    digest = hashlib.sha256()
    if found["documents"] == facts["documents"]:
        for text in read_documents(path):
            data = text.encode()
            found["characters"] += len(text)
            found["bytes"] += len(data)
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
            if found["bytes"] > facts["bytes"]:
                break
    for key, number in found.items():
        if number != facts[key]:
            raise ValueError(f"{path}: {number} {key}, where metadata.json has {facts[key]}; {REMEDY}")
    if digest.hexdigest() != facts["sha256"]:
        raise ValueError(f"{path}: its documents have not the sha256 of metadata.json; {REMEDY}")
