"""How much is tried: a sample in `make test`; in `make proof` all, or the share that it sets in TINY_LM_PROOF.

`make proof` also names a file for what came of it in TINY_LM_COUNTS, which becomes docs/lab/proof.md.
"""

import json
import os
from collections import Counter

from pipeline.proof.page import chapter_of

ALL = "TINY_LM_PROOF" in os.environ
SHARE = float(os.environ.get("TINY_LM_PROOF", 0))


class Book:
    """Counts trials by their kind and result, and appends a line for each to the file of `make proof`."""

    def __init__(self) -> None:
        self.counts = Counter[tuple[str, str]]()

    def note(self, kind: str, outcome: str = "as required", tried: int = 1) -> None:
        assert chapter_of(kind)  # now, and not after the last trial
        self.counts[kind, outcome] += tried

    def close(self) -> None:
        if "TINY_LM_COUNTS" in os.environ:
            with open(os.environ["TINY_LM_COUNTS"], "a", encoding="utf-8") as file:
                for (kind, outcome), tried in sorted(self.counts.items()):
                    file.write(json.dumps({"kind": kind, "outcome": outcome, "tried": tried}) + "\n")
