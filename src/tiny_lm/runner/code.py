"""Refuses to run the code of another tree.

A virtual environment imports the tree it was installed from. In a second clone, a Git worktree or a temporary
experiment, that is not the tree whose params and results are used.
"""

from pathlib import Path


def require_this_tree(root: Path = Path(".")) -> None:
    """Raises ValueError if `root` contains the package's source code and another copy of it is running."""
    here, running = (root / "src/tiny_lm").resolve(), Path(__file__).resolve().parents[1]
    if here.is_dir() and here != running:
        raise ValueError(
            f"the code that runs is {running}, not this folder's src/tiny_lm: activate this folder's own environment "
            "(`source .venv/bin/activate`), or put PYTHONPATH=src before the command"
        )
