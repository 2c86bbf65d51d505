"""Writes docs/proof.md from the lines that the proofs left: python tests/pipeline/proof/page.py COUNTS"""

import json
import os
import platform
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[3]
LIBRARIES = ("torch", "pytorch-lightning", "dvc", "dvclive", "safetensors", "pyarrow", "rustbpe", "tiktoken")
TEXT = """# What was tried, and what came of it

`make proof` writes this page from what it saw, and stops at the first result that is not listed here as right. Moments
and sizes are drawn anew each time.

- **Killed**: a stage is stopped at a random time, or at a moment that was counted in a run left alone: the n-th step,
  the n-th file that is created, renamed or deleted, a file that is half on the disk. Often several times in a row. Then
  it runs to its end, and every byte of its outputs is compared with the run left alone; of speed and memory, the rows.
  After Ctrl-C and SIGTERM the earlier outputs must be back, too.
- **Faults**: a disk with room for a random part of what the stage writes, a folder mounted read-only, a limit on
  memory, one of two processes that dies. The stage ends with one line and no traceback, nothing that was there is lost,
  and the next run makes the right bytes.
- **Elsewhere**: the whole pipeline in a clone with no cache, under another circumstance; `dvc.lock` must be the same.

On {machine}.

"""


def main(path):
    counts = Counter()
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        counts[entry["kind"], entry.get("outcome", "as promised")] += entry["tried"]
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    rows = [f"| {kind} | {tried:,} | {outcome} |" for (kind, outcome), tried in sorted(counts.items())]
    table = ["| what was tried | times | what came of it |", "|---|---|---|", *rows]
    table.append(f"| **all** | **{counts.total():,}** | |")
    page = TEXT.format(machine=f"{machine}; {libraries}") + "\n".join(table) + "\n"
    (ROOT / "docs/proof.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
