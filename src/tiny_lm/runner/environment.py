"""What to do if a stage cannot start in this Python, too old or without our packages; parses in any Python 3.

DVC deleted the outputs before it ran `python`, so they are restored by a Python that has the packages, if there is one.
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
    """Restores the outputs of the stage and ends the process with one line."""
    end = f"; then run `tiny-lm restore {stage}`, because its outputs are missing"
    for python in _other_pythons():
        command = [python, "-c", "from tiny_lm.cli import main; main()", "restore", stage]
        try:
            done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            restored = done.communicate()[0]
        except OSError:
            continue
        if done.returncode == 0:
            end = ". The previous outputs are restored" if restored else ""
            break
    sys.exit(f"{stage}: {reason}{end}")


def _other_pythons() -> list:
    """Pythons that may have our packages: the environment's, and the one that runs DVC (a parent of this process)."""
    root = os.environ.get("DVC_ROOT", ".")
    found = [os.path.join(folder, ".venv", "bin", "python") for folder in (".", root)]
    process = os.getppid()
    for _ in range(4):  # a shell or two lie between
        try:
            with open(f"/proc/{process}/cmdline") as file:
                words = file.read().split("\0")
            with open(f"/proc/{process}/stat") as file:
                process = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):  # not Linux, or the end of the line
            break
        if len(words) > 1 and os.path.basename(words[0]).startswith("python"):
            found.append(words[0])
    return [python for python in found if os.path.exists(python)]
