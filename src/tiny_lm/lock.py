"""The outputs that a dvc.lock records."""

from __future__ import annotations

from pathlib import Path

from tiny_lm.params import read_yaml


def recorded(lock: Path) -> list[dict[str, str]]:
    """Path, checksum and stage of every output in dvc.lock; none where there is no such file."""
    stages = read_yaml(lock).get("stages") or {} if lock.exists() else {}
    try:
        return [
            {"path": str(out["path"]), "md5": str(out["md5"]), "stage": str(name)}
            for name, stage in stages.items()
            for out in stage.get("outs", ())
        ]
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{lock}: not one that DVC wrote; `git checkout {lock}` brings it back") from None
