"""What `python -m tiny_lm.stages` sets before a stage's libraries are imported."""

import subprocess
import sys

BAR = """
import runpy, sys, time
import tiny_lm.frame
tiny_lm.frame.run_stage = lambda *_: None
sys.argv = ["stages", "corpus"]
runpy.run_module("tiny_lm.stages", run_name="__main__")
from tqdm import tqdm
for _ in tqdm(range(40), unit=" documents"):
    time.sleep(0.02)
"""


def test_a_bar_in_a_file_is_a_line_now_and_then():
    done = subprocess.run([sys.executable, "-c", BAR], capture_output=True, text=True, check=True)
    assert 1 <= done.stderr.count("documents/s") <= 3  # begin, end, and one every half minute
