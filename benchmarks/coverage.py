"""Simulates how often the interval of `tiny-lm compare` contains the true difference: it should be 95 times in 100.

    PYTHONPATH=src python benchmarks/coverage.py            # half a minute on one core; --draws to change that

Each draw generates new documents, and two models with a known difference in bits per byte. A document's bits per byte
are the sum of an effect common to both models (which pairing removes), its own difference, noise that grows with the
square root of its bytes, and for each seed an effect of the seed and one of the seed on that document. The interval is
computed from the losses alone, by the code that the tool runs. The standard error of a coverage is 0.5 points at 2,000
draws.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from tiny_lm.compare.statistics import Array, compare, effective_documents

TRUTH = 0.01  # bits per byte
CONFIDENCE = 0.95


@dataclass(frozen=True)
class World:
    """Standard deviations in bits per byte; `chance` in bits per square root of a byte."""

    documents: int
    spread: float = 1.0  # of the logarithm of document sizes: 0 all equal, 1 like web pages, 2 a few very long ones
    seeds: tuple[int, int] = (1, 1)
    of_document: float = 0.03
    of_seed: float = 0.0
    of_variant_seed: float | None = None  # of the variant's seeds; None: like the baseline's
    of_seed_on_document: float = 0.0
    chance: float = 0.3
    skewed: bool = False  # a document's own difference is exponential, not normal

    def draw(self, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """Bits of baseline and variant (seeds, documents), and sizes (documents,) in bytes."""
        n = self.documents
        sizes = np.maximum(1.0, np.round(800 * np.exp(self.spread * rng.standard_normal(n))))
        own = rng.standard_exponential(n) - 1 if self.skewed else rng.standard_normal(n)
        difference = TRUTH * sizes + self.of_document * own * sizes + self.chance * rng.standard_normal(n) * sizes**0.5
        common = rng.normal(1.0, 0.3, n) * sizes
        models = []
        of_variant = self.of_seed if self.of_variant_seed is None else self.of_variant_seed
        for seeds, of_seed, mean in zip(
            self.seeds, (self.of_seed, of_variant), (common, common + difference), strict=True
        ):
            noise = of_seed * rng.standard_normal((seeds, 1))
            noise = noise + self.of_seed_on_document * rng.standard_normal((seeds, n))
            models.append(mean + noise * sizes)
        return models[0], models[1], sizes


def paired_t(baseline: Array, variant: Array, sizes: Array) -> float:
    """The textbook half-width: linearized ratio and Student's t with n − 1, over documents only."""
    bits, total, n = variant.mean(0) - baseline.mean(0), sizes.sum(), len(sizes)
    rest = bits - bits.sum() / total * sizes
    return float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2) * np.sqrt(n / (n - 1) * (rest**2).sum()) / total)


def coverage(world: World, draws: int, seed: int) -> tuple[float, float, float]:
    """Percent of intervals that contain the truth, ours and the textbook's, and our median half-width."""
    rng = np.random.default_rng(seed)
    ours, textbook, halves = list[bool](), list[bool](), list[float]()
    while len(ours) < draws:
        baseline, variant, sizes = world.draw(rng)
        if effective_documents(sizes) < 2:  # no interval, or one that ignores documents
            continue
        result = compare(baseline, variant, sizes, CONFIDENCE)
        assert result.half_width is not None
        ours.append(abs(result.value - TRUTH) <= result.half_width)
        textbook.append(abs(result.value - TRUTH) <= paired_t(baseline, variant, sizes))
        halves.append(result.half_width)
    return 100 * float(np.mean(ours)), 100 * float(np.mean(textbook)), float(np.median(halves))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    start, seed = time.perf_counter(), itertools.count()
    print(f"Documents only (one seed each), {draws} draws: coverage in percent (half-width in bits per byte)\n")
    print("| documents | equal lengths | lengths vary | a few very long | the same, textbook | lengths vary, skewed |")
    print("|---|---|---|---|---|---|")
    for n in (5, 10, 30, 100, 600):
        worlds = [World(n, spread=0.0), World(n), World(n, spread=2.0), World(n, skewed=True)]
        results = [coverage(world, draws, seed=next(seed)) for world in worlds]
        cells = [f"{ours:.1f} ({half:.4f})" for ours, _, half in results]
        cells.insert(3, f"{results[2][1]:.1f}")
        print(f"| {n} | {' | '.join(cells)} |", flush=True)
    print(f"\nDocuments and seeds, {draws} draws, lengths vary; textbook: documents only, seeds ignored\n")
    print("| seeds | documents | std. dev. of seeds | of seeds on a document | coverage | half-width | textbook |")
    print("|---|---|---|---|---|---|---|")
    for seeds in ((2, 2), (3, 3), (5, 5), (2, 5)):
        for n, of_seed, of_variant, on_document in (
            (600, 0.0, None, 0.0), (600, 0.0005, None, 0.01), (600, 0.002, None, 0.02), (600, 0.02, None, 0.0),
            (600, 0.0, None, 0.05), (600, 0.003, 0.012, 0.01), (20, 0.005, None, 0.02), (20, 0.02, None, 0.0),
        ):  # fmt: skip
            world = World(n, seeds=seeds, of_seed=of_seed, of_variant_seed=of_variant, of_seed_on_document=on_document)
            ours, textbook, half = coverage(world, draws, seed=next(seed))
            deviation = f"{of_seed:g}" if of_variant is None else f"{of_seed:g} and {of_variant:g}"
            cells = [f"{seeds[0]} and {seeds[1]}", f"{n}", deviation, f"{on_document:g}", f"{ours:.1f}", f"{half:.4f}"]
            print(f"| {' | '.join(cells)} | {textbook:.1f} |", flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
