"""`python -m tiny_lm.stages NAME` runs a stage in the frame, the seconds that its imports take included."""

import atexit
import gc
import importlib
import os
import sys
from collections.abc import Callable

from tiny_lm.environment import remove_overrides
from tiny_lm.frame import run_stage
from tiny_lm.guard import Stage
from tiny_lm.lean import keep_out_unused_libraries


def load(name: str) -> Callable[[Stage], None]:
    """A stage's main, with its libraries imported."""
    gc.disable()  # what imports make stays; to look for garbage among it again and again took a quarter of their time
    if name == "train":
        keep_out_unused_libraries()
    if name == "export":
        sys.modules["scipy"] = None  # type: ignore[assignment]  # "is not installed": 0.3 s for object detection
    main: Callable[[Stage], None] = importlib.import_module(f"tiny_lm.stages.{name}").main
    gc.freeze()  # nor is it looked through later on
    gc.enable()
    return main


# Threads that wait for others spin this often before they sleep, as libgomp reads it when torch is loaded. By itself it
# spins so long that a step beside one busy program takes twice the time; where they never spin, 8 % more: docs/log.md.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("TQDM_MININTERVAL", "0.5" if sys.stderr.isatty() else "30")  # seconds between two looks of a bar
atexit.register(gc.freeze)  # at its end Python looks for garbage once more: with torch loaded, up to a second
if ignored := remove_overrides():
    print(f"{sys.argv[1]}: ignoring {', '.join(ignored)}: params.yaml decides", file=sys.stderr)
run_stage(sys.argv[1], load)
