"""The pipelines of the project and their lock files. The stages of both run in this folder and have different names."""

from pathlib import Path
from typing import Any

from tiny_lm.io.params import read_yaml

PIPELINES = (Path("dvc.yaml"), Path("tasks/dvc.yaml"))
LOCKS = tuple(path.with_suffix(".lock") for path in PIPELINES)


def read_plans() -> dict[str, dict[str, Any]]:
    """{name: entry} of all stages, in the order of the files."""
    return {name: plan for path in PIPELINES if path.exists() for name, plan in read_yaml(path)["stages"].items()}
