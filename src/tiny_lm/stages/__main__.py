"""`python -m tiny_lm.stages NAME` runs a stage in the frame, the seconds that its imports take included."""

import importlib
import os
import sys

from tiny_lm.frame import run_stage
from tiny_lm.guard import Stage
from tiny_lm.lean import keep_out_unused_libraries


def main(stage: Stage) -> None:
    if stage.name == "train":
        keep_out_unused_libraries()
    importlib.import_module(f"tiny_lm.stages.{stage.name}").main(stage)


# Threads that wait for others spin this often before they sleep, as libgomp reads it when torch is loaded. By itself it
# spins so long that a step beside one busy program takes twice the time; where they never spin, 8 % more: docs/log.md.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("TQDM_MININTERVAL", "0.5" if sys.stderr.isatty() else "30")  # seconds between two looks of a bar
run_stage(sys.argv[1], main)
