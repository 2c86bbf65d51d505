"""`python -m tiny_lm.stages NAME` runs a stage.

Up to the import of the runner, this must run in any Python 3 without our packages: `python` may be another one than
the environment's.
"""

import os
import sys
from importlib import import_module

from tiny_lm.runner import environment

# Threads that wait for others spin this often before they sleep, as libgomp reads it when torch is loaded. Its default
# doubles the time of a step next to one busy program; without spinning a step takes 8 % longer: docs/lab/log.md.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("TQDM_MININTERVAL", "0.5" if sys.stderr.isatty() else "30")  # seconds between updates of a bar

stage = sys.argv[1]
if sys.version_info < environment.OLDEST:
    environment.stop(stage, environment.too_old())
try:
    from tiny_lm.runner.overrides import remove_overrides
    from tiny_lm.runner.run import run_stage
except Exception as error:
    environment.stop(stage, environment.explain(error))
else:
    ignored = remove_overrides()
    if ignored:
        print(f"{stage}: ignoring {', '.join(ignored)}: params.yaml decides", file=sys.stderr)
    run_stage(stage, lambda name: import_module(f"tiny_lm.stages.{name}").main)
