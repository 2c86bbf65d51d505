"""Stops a stage that cannot start in this Python, which is too old or lacks our packages; parses in any Python 3.

DVC has deleted the outputs by now, so the project's own environment restores them if there is one.
"""

import os
import subprocess
import sys
import traceback

OLDEST = (3, 11)
REMEDY = "activate the environment (`source .venv/bin/activate`), which `make setup` creates"


def missing_package(name: str) -> str:
    return f"{sys.executable} does not have the package {name}: {REMEDY}"


def explain(error: Exception) -> str:
    """Why the runner could not be imported; a bug in the code keeps its traceback."""
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("tiny_lm"):
        return missing_package(str(error.name))
    traceback.print_exc()
    return f"{type(error).__name__}: {error}"


def too_old() -> str:
    return f"{sys.executable} is Python {sys.version.split()[0]}, too old: {REMEDY}"


def stop(stage: str, reason: str) -> None:
    """Restores the outputs of the stage if possible, and ends the process with one line."""
    end = f"; then run `tiny-lm restore {stage}`, because its outputs are missing"
    pythons = [os.path.join(root, ".venv", "bin", "python") for root in (".", os.environ.get("DVC_ROOT", "."))]
    for python in filter(os.path.exists, pythons):
        command = [python, "-c", "from tiny_lm.cli import main; main()", "restore", stage]
        restore = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        restored = restore.communicate()[0]
        if restore.returncode == 0:
            end = ". The previous outputs are restored" if restored else ""
            break
    sys.exit(f"{stage}: {reason}{end}")
