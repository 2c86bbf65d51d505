"""How much is tried: a sample in `make test`; in `make proof` all, or the share that it sets in TINY_LM_PROOF."""

import os

ALL = "TINY_LM_PROOF" in os.environ
SHARE = float(os.environ.get("TINY_LM_PROOF", 0))
