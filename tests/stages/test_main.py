"""What `python -m tiny_lm.stages` sets before a stage's libraries are imported."""

import os
import subprocess
import sys

from tiny_lm.environment import SETTINGS

STAGE = """
import runpy, sys, time
import tiny_lm.frame
tiny_lm.frame.run_stage = lambda *_: None
sys.argv = ["stages", "corpus"]
runpy.run_module("tiny_lm.stages", run_name="__main__")
"""
BAR = """
from tqdm import tqdm
for _ in tqdm(range(40), unit=" documents"):
    time.sleep(0.02)
"""
VARIABLES = """
import os
print(*sorted({"DVCLIVE_RESUME", "LOCAL_RANK", "PL_TRAINER_MAX_STEPS"} & set(os.environ)))
"""


def run(code, **environment):
    kept = {name: value for name, value in os.environ.items() if not SETTINGS.fullmatch(name)}
    return subprocess.run(
        [sys.executable, "-c", STAGE + code], env=kept | environment, capture_output=True, text=True, check=True
    )


def test_a_bar_in_a_file_is_a_line_now_and_then():
    assert 1 <= run(BAR).stderr.count("documents/s") <= 3  # begin, end, and one every half minute


def test_settings_in_the_environment_are_ignored_and_named():
    done = run(VARIABLES, PL_TRAINER_MAX_STEPS="3", DVCLIVE_RESUME="1", LOCAL_RANK="1")
    assert done.stdout == "\n"
    assert done.stderr == "corpus: ignoring DVCLIVE_RESUME, PL_TRAINER_MAX_STEPS: params.yaml decides\n"
