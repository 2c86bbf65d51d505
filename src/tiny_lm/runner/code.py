"""Code identity: the code that runs is the code of the tree it is run in.

A virtual environment imports the tree it was installed from. In a second clone, a Git worktree or a temporary
experiment, that is not the tree whose params and results are used.
"""

import os


def require_this_tree(root: str = ".") -> None:
    """Raises ValueError if `root` contains the package's source code and another copy of it is running."""
    here = os.path.join(root, "src", "tiny_lm")
    running = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if os.path.isdir(here) and os.path.realpath(here) != running:
        raise ValueError(
            f"the code that runs is {running}, not this folder's {here.removeprefix('./')}: activate this folder's own "
            "environment (`source .venv/bin/activate`), or put PYTHONPATH=src before the command"
        )
