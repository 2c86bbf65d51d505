"""Writes docs/lab/proof.md from the results of the proofs: python tests/pipeline/proof/page.py COUNTS"""

import json
import os
import platform
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[3]
LIBRARIES = ("torch", "pytorch-lightning", "dvc", "dvclive", "safetensors", "pyarrow", "rustbpe", "tiktoken")
TEXT = """# Proofs: kills, faults, damage and misuse

`make proof` writes this page from its results, and fails at the first wrong one. Times, sizes and values are
random and differ in each run; `make test` runs a fixed sample of each kind.

On {machine}.

| | trials |
|---|---|
{totals}
"""
# Chapters by the kinds of trials; the first match counts.
CHAPTERS = {
    "Killed pipelines": (
        ("dvc ",),
        """We stop a user's command at a random time while all six stages are stale, including DVC's own work: all its
processes, only DVC, or only the stage, by SIGKILL, SIGTERM or Ctrl-C. Then we run the same command again, after
the stage of the killed run has ended, and after `git checkout dvc.lock` if DVC left that file cut short.
`dvc.lock` and all files must equal those of an uninterrupted run, and nothing may be stale.""",
    ),
    "Killed stages": (
        (" at ",),
        """We stop a stage at a random time or at a chosen event: the n-th step, the n-th file that is created, renamed
or deleted, a half-written file. Often several times in a row. Then it runs to its end, and every byte of its
outputs is compared with an uninterrupted run (for speed and memory, only the step column). After Ctrl-C and
SIGTERM the previous outputs must be restored, too. Training is killed in eight configurations.""",
    ),
    "Faults": (
        (": a full disk", ": an almost full disk", ": a read-only folder", " memory"),
        """A disk with space for a random part of what the stage writes, a read-only folder, a memory limit. The stage
must end with one line and no traceback, nothing may be lost, and the next run must write the right bytes.""",
    ),
    "Several processes and machines": (
        ("train on two", "SLURM"),
        """One of several processes dies, or DVC, or what starts them; two nodes differ in their clocks, settings or
folders, or the disk of one is full; the network between them fails; a SLURM job is stopped, or one of its nodes is
killed. The run must end with one line on each node or requeue itself, and at last write the bytes of one process.""",
    ),
    "Damage": (
        ("damage ",),
        """Flipped, truncated, inserted and removed bytes in every kind of file, and JSON with other values, extra or
missing keys. A file with a checksum must be refused with its name and what to do. Any other file must be
read correctly or refused in one line.""",
    ),
    "Invalid values and unusual texts": (
        ("values of", "sections of", "settings of", "bytes of", "paths and", "texts "),
        """Any value of any type for any key of `params.yaml`, any bytes as the file, any path and pattern, and any
text through corpus, tokenizer and shards. Each must be accepted, survive the round trip unchanged, or be
refused with its key or position.""",
    ),
    "Streams": (
        ("a stream ",),
        """Texts of all kinds (stories, symbols, long lines) go through corpus, tokenizer and shards. Then every
document is decoded and compared with the original. Memory must not grow with the text, except for the 100
bytes per document that the corpus stage uses to find duplicates.""",
    ),
    "Network": (
        ("network: ",),
        """We watch system calls with `strace`, Python with an audit hook, and cut the network off if the system allows
that.""",
    ),
    "Other environments": (
        ("full rebuild",),
        "The whole pipeline in a clone without a cache, in other environments. `dvc.lock` must be the same.",
    ),
}


def chapter_of(kind):
    titles = [title for title, (names, _) in CHAPTERS.items() if any(name in kind for name in names)]
    assert titles, f"no chapter for {kind!r}"
    return titles[0]


def main(path):
    counts = Counter()
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        counts[entry["kind"], entry["outcome"]] += entry["tried"]
    chapters, totals = [], []
    for title, (_, text) in CHAPTERS.items():
        rows = {key: counts[key] for key in sorted(counts) if chapter_of(key[0]) == title}
        if rows:
            table = [f"| {kind} | {tried:,} | {outcome} |" for (kind, outcome), tried in rows.items()]
            head = "| trial | times | result |\n|---|---|---|\n"
            chapters.append(f"\n## {title}\n\n{text}\n\n{head}" + "\n".join(table) + "\n")
            totals.append(f"| {title.lower()} | {sum(rows.values()):,} |")
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    page = TEXT.format(machine=f"{machine}; {libraries}", totals="\n".join(totals)) + "".join(chapters)
    (ROOT / "docs/lab/proof.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
