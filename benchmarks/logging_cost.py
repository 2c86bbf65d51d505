"""Cost of logging in training: the train stage's logger vs. no logging, over 10,000 steps of 10 ms.

    PYTHONPATH=src python benchmarks/logging_cost.py        # about four minutes

A step spins for 10 ms. One contender logs what the train stage logs, at the default interval; the other does not. They
alternate in blocks of 500 steps, and the extra time of a block is the cost of logging. The first and last fifth of the
blocks show whether rows get slower as the files grow.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from tiny_lm.io.params import read_yaml
from tiny_lm.training.loggers import HARDWARE, LiveLogger

STEP_SECONDS = 0.01
BLOCK = 500
FIGURES = ("train_loss", "train_ppl", "lr", "gradient_norm", "tokens", HARDWARE + "tokens_per_second")


def block(first: int, logger: LiveLogger | None, interval: int) -> float:
    """Seconds for BLOCK steps, starting at step `first`."""
    start = time.perf_counter()
    for step in range(first + 1, first + BLOCK + 1):
        end = time.perf_counter() + STEP_SECONDS
        while time.perf_counter() < end:
            pass
        if logger and step % interval == 0:
            logger.log_metrics(dict.fromkeys(FIGURES, 1.0 / step), step)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    steps = parser.parse_args().steps
    interval = read_yaml(Path("params.yaml"))["train"]["log_every"]
    with tempfile.TemporaryDirectory() as folder:
        logger = LiveLogger(Path(folder))
        extra = []
        for first in range(0, steps, BLOCK):
            extra.append(block(first, logger, interval) - block(first, None, interval))
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    share = [100 * seconds / (BLOCK * STEP_SECONDS) for seconds in extra]
    fifth = max(1, len(share) // 5)
    print(
        f"{steps:,} steps of {1000 * STEP_SECONDS:g} ms; {len(FIGURES)} figures every {interval}; {size / 1e3:.0f} kB"
    )
    print(
        f"logging takes {statistics.median(share):.2f} % of a step (median of {len(share)} blocks; "
        f"{min(share):.2f} to {max(share):.2f})\n"
        f"first fifth {statistics.median(share[:fifth]):.2f} %, last fifth {statistics.median(share[-fifth:]):.2f} %"
    )


if __name__ == "__main__":
    main()
