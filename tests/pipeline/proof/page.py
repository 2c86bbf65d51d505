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
TEXT = """# What was killed, damaged and misused, and what came of it

`make proof` writes this page from what it saw, and stops at the first result that is not listed here as right. Moments,
sizes and values are drawn anew each time; `make test` runs a sample of each kind, the same every time.

On {machine}.

| | tried |
|---|---|
{totals}
"""
# What a proof is of, by how it is named; the first that fits.
CHAPTERS = {
    "Whole pipelines that were killed": (
        ("dvc ",),
        """A command that a user types, with all six stages stale, is stopped at a random time, DVC's own work included:
all its processes, or that of DVC or of the stage alone, by SIGKILL, SIGTERM or Ctrl-C. The same command is typed
again, and where a stage of the killed run is still there, until it is not; where DVC left `dvc.lock` cut short, `git
checkout dvc.lock` comes first. `dvc.lock` and the files are then those of a run left alone, and nothing is stale.""",
    ),
    "Stages that were killed": (
        (" at ",),
        """A stage is stopped at a random time, or at a moment that was counted in a run left alone: the n-th step, the
n-th file that is created, renamed or deleted, a file that is half on the disk. Often several times in a row. Then it
runs to its end, and every byte of its outputs is compared with the run left alone; of speed and memory, the rows. After
Ctrl-C and SIGTERM the earlier outputs must be back, too. Training is killed in eight configurations.""",
    ),
    "Faults": (
        (": a full disk", ": a disk nearly full", ": a read-only folder", " memory", "train on two devices"),
        """A disk with room for a random part of what the stage writes, a folder mounted read-only, a limit on memory,
one of two processes that dies. The stage ends with one line and no traceback, nothing that was there is lost, and the
next run makes the right bytes.""",
    ),
    "Damage": (
        ("damage ",),
        """Bytes flipped, cut off, put in or taken out of every kind of file that is read, and JSON with other values,
keys more or keys less. What has a checksum is refused, with the file's name and what to do; of the rest, whatever is
read is right or refused in one line.""",
    ),
    "Bad values and odd texts": (
        ("values of", "sections of", "settings of", "bytes of", "paths and", "texts "),
        """Any value of any type for any key of `params.yaml`, any bytes in its place, any path and pattern; any text
through corpus, tokenizer and shards and back. It becomes an object, or comes back unchanged, or is refused with the key
or the place.""",
    ),
    "Streams": (
        ("a stream ",),
        """Texts of all kinds, stories, signs and long lines, through corpus, tokenizer and shards; then every document
is decoded from the shards and compared with what was written. Memory may not grow with the text, but for the corpus
stage's 100 bytes for each document, by which it knows duplicates.""",
    ),
    "Nobody is spoken to": (
        ("network: ",),
        """The calls that processes make of the system, watched by `strace`, and those of Python by a hook; with no
network at all, where the system can do that.""",
    ),
    "Elsewhere": (
        ("everything built elsewhere",),
        "The whole pipeline in a clone with no cache, under another circumstance; `dvc.lock` must be the same.",
    ),
}


def main(path):
    counts = Counter()
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        counts[entry["kind"], entry.get("outcome", "as promised")] += entry["tried"]
    chapters, totals = [], []
    for title, (names, text) in CHAPTERS.items():
        rows = {key: counts.pop(key) for key in sorted(counts) if any(name in key[0] for name in names)}
        if rows:
            table = [f"| {kind} | {tried:,} | {outcome} |" for (kind, outcome), tried in rows.items()]
            head = "| what was tried | times | what came of it |\n|---|---|---|\n"
            chapters.append(f"\n## {title}\n\n{text}\n\n{head}" + "\n".join(table) + "\n")
            totals.append(f"| {title.lower()} | {sum(rows.values()):,} |")
    assert not counts, f"no chapter for {counts}"
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    page = TEXT.format(machine=f"{machine}; {libraries}", totals="\n".join(totals)) + "".join(chapters)
    (ROOT / "docs/proof.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
