"""`python -m tiny_lm.stages NAME` runs a stage in the frame, the seconds that its imports take included."""

import importlib
import sys

from tiny_lm.frame import run_stage

run_stage(sys.argv[1], lambda stage: importlib.import_module(f"tiny_lm.stages.{stage.name}").main(stage))
