"""`python -m tiny_lm.stages NAME` runs a stage."""

import os
import sys
import traceback
from importlib import import_module

# Threads that wait for others spin this often before they sleep, as libgomp reads it when torch is loaded. Its default
# doubles the time of a step next to one busy program; without spinning a step takes 8 % longer: docs/lab/log.md.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("TQDM_MININTERVAL", "0.5" if sys.stderr.isatty() else "30")  # seconds between updates of a bar

stage = sys.argv[1]
try:
    from tiny_lm.runner.overrides import remove_overrides
    from tiny_lm.runner.run import run_stage
except Exception as error:  # a bug in the runner's own code
    traceback.print_exc()
    sys.exit(f"{stage}: {error}; then run `tiny-lm restore {stage}`, because its outputs are missing")
if ignored := remove_overrides():
    print(f"{stage}: ignoring {', '.join(ignored)}: params.yaml decides", file=sys.stderr)
run_stage(stage, lambda name: import_module(f"tiny_lm.stages.{name}").main)
